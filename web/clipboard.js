import { element } from "./element.js";

/** Copy a text to the clipboard, also without the Clipboard API (plain HTTP in a LAN). */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element("textarea", {}, text);
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

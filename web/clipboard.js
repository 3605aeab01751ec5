import { element } from "./element.js";

/** Put a text on the clipboard, also where a page has none of its own: over plain HTTP in a LAN. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element("textarea", {}, text);
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

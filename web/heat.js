/** As in drawing/heatmap.py: viridis, from low to high. */
const STOPS = ["#440154", "#3B528B", "#21918C", "#5EC962", "#FDE725"].map((stop) =>
  [1, 3, 5].map((place) => parseInt(stop.slice(place, place + 2), 16)),
);
const SOLID = [1, 1];
/** As in drawing/patch_overlay.py: the opacity at the lowest and at the highest value. */
export const OPACITY = [0.25, 0.8];

/** A heatmap as a data URL: an image with one pixel per value, `columns` to a row. */
export function heat(values, columns, opacity = SOLID) {
  const low = values.reduce((one, other) => Math.min(one, other));
  const range = values.reduce((one, other) => Math.max(one, other)) - low || 1;
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = values.length / columns;
  const data = new ImageData(columns, canvas.height);
  values.forEach((value, k) => data.data.set(pixel((value - low) / range, opacity), 4 * k));
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas.toDataURL();
}

/** The bytes of a base64 text. */
export function bytes(text) {
  return Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** The text colour on a cell whose value is at `share` (0..1) of the range. */
export function inkOn(share) {
  return share > 0.6 ? "#111" : "#fff";
}

function pixel(share, [least, most]) {
  const place = share * (STOPS.length - 1);
  const below = Math.min(Math.floor(place), STOPS.length - 2);
  const mix = (k) => STOPS[below][k] + (place - below) * (STOPS[below + 1][k] - STOPS[below][k]);
  return [mix(0), mix(1), mix(2), 255 * (least + share * (most - least))];
}

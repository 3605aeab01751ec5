/** As in kosmos/heat.py: viridis, from low to high. */
const STOPS = [
  [0x44, 0x01, 0x54],
  [0x3b, 0x52, 0x8b],
  [0x21, 0x91, 0x8c],
  [0x5e, 0xc9, 0x62],
  [0xfd, 0xe7, 0x25],
];
/** As in kosmos/overlay.py: how opaque colours are where a map is lowest, and where highest. */
const COVER = [0.25, 0.8];

/** A map, rows of numbers, as a tiny picture with one pixel a patch: a data address. */
export function heat(grid) {
  const values = grid.flat();
  const low = Math.min(...values);
  const range = Math.max(...values) - low || 1;
  const pixels = values.flatMap((value) => pixel((value - low) / range));
  const canvas = document.createElement("canvas");
  canvas.width = grid[0].length;
  canvas.height = grid.length;
  const data = new ImageData(new Uint8ClampedArray(pixels), canvas.width);
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas.toDataURL();
}

function pixel(share) {
  const place = share * (STOPS.length - 1);
  const below = Math.min(Math.floor(place), STOPS.length - 2);
  const mix = (k) => STOPS[below][k] + (place - below) * (STOPS[below + 1][k] - STOPS[below][k]);
  return [mix(0), mix(1), mix(2), 255 * (COVER[0] + share * (COVER[1] - COVER[0]))];
}

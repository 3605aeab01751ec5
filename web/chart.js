import { svg } from "./element.js";

const WIDTH = 300;
const HEIGHT = 110;
const SMOOTHING = 0.85;

/** A loss curve of `points` [step, loss]: the values (faint) and their moving average. */
export function lossCurve(points, steps) {
  const losses = points.map(([, loss]) => loss);
  const low = Math.min(...losses);
  const high = Math.max(...losses);
  const x = (step) => (WIDTH * step) / steps;
  const y = (loss) => HEIGHT * (1 - (loss - low) / (high - low || 1));
  const line = (values, name) =>
    svg("polyline", {
      class: name,
      points: points.map(([step], k) => `${x(step).toFixed(1)},${y(values[k]).toFixed(1)}`).join(" "),
    });
  const label = (text, place) => svg("text", { x: WIDTH, "text-anchor": "end", ...place }, text);
  return svg(
    "svg",
    {
      class: "kd-chart",
      viewBox: `0 -12 ${WIDTH} ${HEIGHT + 24}`,
      role: "img",
      "aria-label": `Loss from ${number(losses[0])} to ${number(losses.at(-1))}`,
    },
    svg("path", { d: `M0 0H${WIDTH}M0 ${HEIGHT}H${WIDTH}` }),
    line(losses, "kd-raw"),
    line(smoothed(losses), "kd-smooth"),
    label(number(high), { y: -3 }),
    label(number(low), { y: HEIGHT + 10 }),
  );
}

/** A number with three significant digits, small ones in scientific notation. */
export function number(value) {
  if (value && Math.abs(value) < 1e-3) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

/** Exponential moving average. */
function smoothed(values) {
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    sum = SMOOTHING * sum + value;
    weight = SMOOTHING * weight + 1;
    return sum / weight;
  });
}

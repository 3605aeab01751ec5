import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { attentionMap } from "./attention_map.js";
import { element } from "./element.js";
import { allNodes, located } from "./graph.js";
import { groundedCaption } from "./grounded_caption.js";
import { matrix } from "./matrix.js";
import { Panel } from "./panel.js";
import { patchTokens } from "./patch_tokens.js";
import { quantized } from "./quantized.js";
import { lastShown, training } from "./training.js";

const TRAINING = { key: "training", view: training, height: 400, kept: lastShown };
const PANELS = {
  GroundedCaption: { key: "grounded", view: groundedCaption, height: 360 },
  AttentionMap: { key: "attention", view: attentionMap, height: 360 },
  PatchTokens: { key: "similarity", view: patchTokens, height: 340 },
  CompareEmbeddings: { key: "compared", view: matrix, height: 340 },
  Quantize: { key: "quantized", view: quantized, height: 300 },
  DreamBoothTrain: TRAINING,
  ResumeTraining: TRAINING,
  LoadTrainingRun: TRAINING,
  EvaluateSubject: TRAINING,
  TextualInversionTrain: TRAINING,
  FineTuneCaptions: TRAINING,
};

const panels = new WeakMap();

/** The panels that show this training run. */
function showing({ name }) {
  const open = [...allNodes()].map((node) => panels.get(node));
  return open.filter((panel) => panel?.key === "training" && panel.results?.[0].name === name);
}

app.registerExtension({
  name: "KosmosDreamBooth",

  setup() {
    const href = new URL("panel.css", import.meta.url).href;
    document.head.append(element("link", { rel: "stylesheet", href }));
    api.addEventListener("kosmos_dreambooth.training", ({ detail }) => {
      const targets = new Set([panels.get(located(detail.node)), ...showing(detail)]);
      targets.forEach((panel) => panel?.show([detail]));
    });
  },

  nodeCreated(node) {
    const options = PANELS[node.comfyClass];
    if (options) panels.set(node, new Panel(node, options));
  },

  afterConfigureGraph() {
    for (const node of allNodes()) panels.get(node)?.restore();
  },
});

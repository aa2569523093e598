// Shows under each node of the pack what it said when it ran: the values it really used.
// Gives TrainLoRA its button "stop and keep".
// Nothing depends on it: without it the nodes work the same, the text is still in the host's history, and a training is
// stopped by POST /acestep/training/stop.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const WIDGET = "report";
const PROGRESS = "$$node-text-preview"; // the frontend's own, for words that come while a node runs
const TRAINER = "ACEStepTrainLoRA";
const STOP = "stop and keep";
const LINE_HEIGHT = 15;
const MARGIN = 18;
const CHARACTER_WIDTH = 6.5;

async function textWidget(node) {
  const present = node.widgets?.find((widget) => widget.name === WIDGET);
  if (present) return present;
  const { ComfyWidgets } = await import("../../scripts/widgets.js");
  const { widget } = ComfyWidgets.STRING(node, WIDGET, ["STRING", { multiline: true }], app);
  widget.serialize = false; // neither in the saved workflow nor in the prompt
  const needed = () => height(node, widget.value);
  Object.assign(widget.options, { serialize: false, read_only: true, getMinHeight: needed, getMaxHeight: needed });
  if (widget.element) widget.element.readOnly = true;
  return widget;
}

function height(node, text) {
  const columns = Math.max(20, (node.size[0] - 30) / CHARACTER_WIDTH);
  const rows = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / columns)), 0);
  return rows * LINE_HEIGHT + MARGIN;
}

async function show(node, lines) {
  const widget = await textWidget(node);
  widget.value = lines.join("\n");
  node.setSize?.([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
  node.setDirtyCanvas?.(true, true);
}

// A training is the one run that can be ended with its result. The button is no value of the node.
function addStopButton(node) {
  const widget = node.addWidget("button", STOP, null, () => stopTraining(node), { serialize: false });
  widget.serialize = false;
  widget.tooltip = "Ends the training after the running step and goes on with what was learned. Cancel also keeps it.";
}

async function stopTraining(node) {
  const answer = await api.fetchApi("/acestep/training/stop", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ node: String(node.id) }),
  });
  const body = await answer.json().catch(() => ({}));
  const detail = answer.ok ? "the training ends" : (body.error ?? `answer ${answer.status}`);
  app.extensionManager?.toast?.add({ severity: answer.ok ? "info" : "warn", summary: STOP, detail, life: 4000 });
}

// The frontend saves its progress text among the values of the widgets, where a widget that a later version of the node
// appends would take it for its own.
function forgetTexts(node, data) {
  const first = node.widgets?.findIndex((widget) => [WIDGET, PROGRESS, STOP].includes(widget.name)) ?? -1;
  if (first >= 0 && data.widgets_values?.length > first) data.widgets_values.length = first;
}

app.registerExtension({
  name: "ACEStep.report",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name?.startsWith("ACEStep")) return;
    const serialized = nodeType.prototype.onSerialize;
    nodeType.prototype.onSerialize = function (data) {
      serialized?.apply(this, arguments);
      forgetTexts(this, data);
    };
    if (nodeData.name === TRAINER) {
      const created = nodeType.prototype.onNodeCreated;
      nodeType.prototype.onNodeCreated = function () {
        created?.apply(this, arguments);
        addStopButton(this);
      };
    }
    const before = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      before?.apply(this, arguments);
      if (Array.isArray(output?.text)) show(this, output.text).catch(() => {});
    };
  },
});

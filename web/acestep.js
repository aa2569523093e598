// Shows under each node of the pack what it said when it ran: the values it really used.
// Nothing depends on it: without it the nodes work the same, and the text is still in the host's history.
import { app } from "../../scripts/app.js";

const WIDGET = "report";
const PROGRESS = "$$node-text-preview"; // the frontend's own, for words that come while a node runs
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

// The frontend saves its progress text among the values of the widgets, where a widget that a later version of the node
// appends would take it for its own.
function forgetTexts(node, data) {
  const first = node.widgets?.findIndex((widget) => [WIDGET, PROGRESS].includes(widget.name)) ?? -1;
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
    const before = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      before?.apply(this, arguments);
      if (Array.isArray(output?.text)) show(this, output.text).catch(() => {});
    };
  },
});

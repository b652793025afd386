/* Curves of runs, live: follows the stream, draws with uPlot, each point is sent once. */
import { createElement as h, useEffect, useRef, useState } from "react";
import uPlot from "uplot";
import env from "$/env.json";
import { getBackendURL } from "$/utils/state";

const GROUPS = [
  ["Loss", ["loss", "heldout_loss"], "nats per token"],
  ["Reward", ["reward", "reward_std"], "mean and standard deviation"],
  ["Reward margin", ["rewards/margins", "heldout_rewards/margins"], ""],
  ["Accuracy of pairs", ["rewards/accuracies", "heldout_rewards/accuracies"], "share"],
  ["KL divergence", ["kl", "reference_kl"], "nats"],
  ["Completion length", ["completions/mean_length", "completions/min_length", "completions/max_length"], "tokens"],
  ["Clipped", ["clip_ratio", "clip_ratio/low_mean", "clip_ratio/high_mean", "completions/clipped_ratio"], "share"],
  ["Learning rate", ["learning_rate"], ""],
  ["Gradient norm", ["grad_norm"], ""],
  ["Speed", ["tokens_per_second"], "tokens/s"],
  ["Temperature of the card", ["gpu/temperature"], "°C"],
  ["Power of the card", ["gpu/power"], "W"],
  ["Memory of the card", ["gpu/memory"], "GB"],
];

const EXACT = new Set(["Learning rate", "Temperature of the card", "Memory of the card"]);
const smoothed = (ys, w) => {
  let mean = 0, n = 0;
  return ys.map((y) => (y == null ? null : ((n += 1), (mean = w * mean + (1 - w) * y), mean / (1 - w ** n))));
};
const colour = (i) => getComputedStyle(document.documentElement).getPropertyValue(`--chart-${(i % 6) + 1}`).trim();
const named = (name, run, many) => (many ? `${run.slice(0, 22)} ${name}` : name).replaceAll("_", " ");

function Chart({ title, unit, series, smooth, theme }) {
  const at = useRef(null), plot = useRef(null);
  const steps = [...new Set(series.flatMap((s) => [...s.points.keys()]))].sort((a, b) => a - b);
  const lines = series.flatMap((s, i) => {
    const ys = steps.map((x) => s.points.get(x) ?? null);
    const dots = s.points.size < steps.length / 2 || s.points.size < 3;
    const thin = smooth && !dots && s.points.size > 20;
    const raw = { label: s.label, ys, i, faint: thin, dots };
    return thin ? [raw, { label: `${s.label}, smoothed`, ys: smoothed(ys, 0.9), i }] : [raw];
  });
  const shape = lines.map((l) => `${l.label}${l.faint}${l.dots}`).join() + theme;
  useEffect(() => {
    const ink = getComputedStyle(document.documentElement);
    const axis = { stroke: ink.getPropertyValue("--soft"), grid: { stroke: ink.getPropertyValue("--grid"), width: 1 }, ticks: { stroke: ink.getPropertyValue("--grid") } };
    plot.current = new uPlot({
      width: at.current.clientWidth, height: 220, scales: { x: { time: false } }, legend: { show: false },
      axes: [{ ...axis, size: 30 }, { ...axis, size: 58, values: (u, vs) => vs.map((v) => (v == null ? "" : Math.abs(v) >= 1e5 || (v !== 0 && Math.abs(v) < 1e-3) ? v.toExponential(0) : +v.toPrecision(4))) }],
      series: [{}, ...lines.map((l) => ({ label: l.label, stroke: colour(l.i), alpha: l.faint ? 0.3 : 1, width: 1.8, spanGaps: true, points: { show: !!l.dots, size: 5 } }))],
    }, [steps, ...lines.map((l) => l.ys)], at.current);
    const seen = new ResizeObserver(() => at.current && plot.current?.setSize({ width: at.current.clientWidth, height: 220 }));
    seen.observe(at.current);
    return () => { seen.disconnect(); plot.current?.destroy(); plot.current = null; };
  }, [shape]);
  useEffect(() => { plot.current?.setData([steps, ...lines.map((l) => l.ys)]); });
  const last = series.map((s) => `${s.label} ${[...s.points.values()].filter((v) => v != null).at(-1)?.toPrecision(4) ?? "none"}`).join(", ");
  return h("section", { className: "card" },
    h("div", { className: "card-head" }, h("h2", null, title), h("span", { className: "soft small" }, unit)),
    h("div", { ref: at, className: "chart", role: "img", "aria-label": `${title} over ${steps.length} steps; last: ${last}` }),
    h("div", { className: "legend" }, series.map((s, i) => h("span", { key: s.label }, h("i", { style: { background: colour(i) } }), s.label, " ", h("b", null, [...s.points.values()].filter((v) => v != null).at(-1)?.toPrecision(4) ?? "")))));
}

export function RunCharts({ runs, smooth = true, only = "" }) {
  const data = useRef(new Map()), [, redraw] = useState(0), [state, setState] = useState("connecting"), [theme, setTheme] = useState("");
  useEffect(() => {
    const seen = new MutationObserver(() => setTheme(document.documentElement.className));
    seen.observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
    return () => seen.disconnect();
  }, []);
  const list = (runs || "").split(",").filter(Boolean);
  useEffect(() => {
    if (!list.length) return;
    let socket, timer, frame, gone = false, wait = 500;
    const ended = new Set();
    const draw = () => { frame ||= requestAnimationFrame(() => { frame = 0; redraw((n) => n + 1); }); };
    const open = () => {
      const url = new URL("api/v1/stream", getBackendURL(env.EVENT));
      for (const run of list) url.searchParams.append("run", run);
      socket = new WebSocket(url);
      socket.onopen = () => { data.current = new Map(); wait = 500; setState("live"); };
      socket.onmessage = (message) => {
        const { event, data: told } = JSON.parse(message.data);
        if (event === "training_update") {
          const mine = data.current.get(told.run_id) ?? new Map();
          for (const [name, points] of Object.entries(told.points)) {
            const known = mine.get(name) ?? new Map();
            for (const [step, value] of points) known.set(step, value);
            mine.set(name, known);
          }
          data.current.set(told.run_id, mine);
          draw();
        } else if (event === "training_complete" || event === "training_error") {
          ended.add(told.run_id);
          if (ended.size === list.length) { setState("ended"); socket.close(); }
        }
      };
      socket.onclose = () => {
        if (gone || ended.size === list.length) return;
        setState("reconnecting");
        timer = setTimeout(open, (wait = Math.min(wait * 2, 8000)));
      };
    };
    open();
    return () => { gone = true; clearTimeout(timer); cancelAnimationFrame(frame); socket?.close(); };
  }, [runs]);
  const many = list.length > 1;
  const charts = GROUPS.filter(([title]) => !only || title === only).map(([title, names, unit]) => [title, unit,
    list.flatMap((run) => names.filter((n) => data.current.get(run)?.get(n)?.size).map((n) => ({ label: named(n, run, many), points: data.current.get(run).get(n) })))]).filter(([, , series]) => series.length);
  if (!charts.length) return h("p", { className: state === "ended" ? "soft" : "loading", role: "status" }, state === "ended" ? "This run recorded no step." : state === "reconnecting" ? "The connection was lost; trying again." : "The curves appear with the first step.");
  return h("div", { className: "stack", "data-state": state },
    state === "reconnecting" ? h("p", { className: "note warn", role: "status" }, "The connection was lost; trying again. The run goes on.") : null,
    h("div", { className: "charts" }, charts.map(([title, unit, series]) => h(Chart, { key: title, title, unit, series, smooth: smooth && !EXACT.has(title), theme }))));
}

/* A chat with the model that answers, streamed, beside its base model where asked; answers can be scored and kept. */
import { createElement as h, useEffect, useRef, useState } from "react";
import env from "$/env.json";
import { getBackendURL } from "$/utils/state";

const at = (path) => {
  const url = new URL(path, getBackendURL(env.EVENT));
  url.protocol = url.protocol.replace("ws", "http");
  return url;
};
const post = (path, body, signal) => fetch(at(path), { method: "POST", signal, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
const told = (error) => (error?.code ? `${error.code}: ${error.message}` : (error?.message ?? "There was no answer."));

/* Streams one answer; calls `grow` with the text so far. */
async function ask(model, messages, settings, signal, grow) {
  const answer = await post("v1/chat/completions", { model, messages, stream: true, ...settings }, signal);
  if (!answer.ok) throw new Error(told((await answer.json().catch(() => ({}))).error));
  const reader = answer.body.getReader(), decoder = new TextDecoder();
  let rest = "", text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return text;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const found = JSON.parse(line.slice(6));
      if (found.error) throw new Error(told(found.error));
      grow((text += found.choices[0].delta.content ?? ""));
    }
  }
}

async function worth(reward, completion, prompt, reference) {
  const answer = await post(`api/v1/rewards/${encodeURIComponent(reward)}/test`, { rows: [{ completion, prompt, reference: reference || null }] });
  const found = await answer.json();
  return answer.ok ? found.scores[0].total.toPrecision(3) : told(found.error);
}

function Answer({ name, text, score, busy }) {
  return h("div", { className: "turn assistant" }, h("span", null, name, score != null ? h("b", { className: "score" }, ` reward ${score}`) : null),
    h("p", null, text || (busy ? "…" : "")));
}

export function Chat({ model, ready, settings = "{}", system = "", compare = false, reward = "", expected = "" }) {
  const [turns, setTurns] = useState([]), [draft, setDraft] = useState(""), [wrong, setWrong] = useState(""), [kept, setKept] = useState("");
  const [busy, setBusy] = useState(false), abort = useRef(null), frame = useRef(0), end = useRef(null);
  useEffect(() => { setTurns([]); setWrong(""); setKept(""); abort.current?.abort(); }, [model]);
  useEffect(() => () => abort.current?.abort(), []);
  useEffect(() => { end.current?.scrollTo({ top: end.current.scrollHeight }); }, [turns]);

  const history = (list, key) => [...(system ? [{ role: "system", content: system }] : []),
    ...list.map((t) => (t.role === "user" ? { role: "user", content: t.text } : { role: "assistant", content: t[key] || t.text }))];
  const send = async () => {
    const text = draft.trim();
    if (!text || busy || !ready) return;
    const before = [...turns, { role: "user", text }], own = { text: "", base: compare ? "" : null };
    const draw = () => { frame.current ||= requestAnimationFrame(() => { frame.current = 0; setTurns([...before, { role: "assistant", ...own }]); }); };
    setDraft(""); setWrong(""); setKept(""); setBusy(true); draw();
    abort.current = new AbortController();
    const signal = abort.current.signal, chosen = JSON.parse(settings);
    try {
      await Promise.all([
        ask(model, history(before, "text"), chosen, signal, (t) => { own.text = t; draw(); }),
        compare ? ask(`${model}:base`, history(before, "base"), chosen, signal, (t) => { own.base = t; draw(); }) : null,
      ]);
      if (reward) {
        own.score = await worth(reward, own.text, text, expected);
        if (compare) own.baseScore = await worth(reward, own.base, text, expected);
      }
    } catch (error) {
      if (error.name !== "AbortError") setWrong(error.message);
    }
    cancelAnimationFrame(frame.current); frame.current = 0;
    setTurns([...before, { role: "assistant", ...own }]);
    setBusy(false);
  };
  const keep = async () => {
    const url = at("api/v1/datasets/upload");
    url.searchParams.set("name", "chats.jsonl");
    const answer = await fetch(url, { method: "POST", headers: { "content-type": "application/octet-stream" }, body: JSON.stringify({ messages: history(turns, "text") }) + "\n" });
    const found = await answer.json().catch(() => ({}));
    if (answer.ok) setKept(`Kept as ${found.name}: it is among the datasets.`); else setWrong(told(found.error));
  };
  return h("div", { className: "stack" },
    h("div", { className: compare ? "chat beside" : "chat", ref: end, role: "log", "aria-live": "polite", "aria-label": "Conversation", tabIndex: 0 },
      turns.length ? turns.map((t, i) => t.role === "user"
        ? h("div", { key: i, className: "turn asked" }, h("span", null, "you"), h("p", null, t.text))
        : h("div", { key: i, className: "answers" },
          h(Answer, { name: "tuned", text: t.text, score: t.score, busy: busy && i === turns.length - 1 }),
          t.base != null ? h(Answer, { name: "base model", text: t.base, score: t.baseScore, busy: busy && i === turns.length - 1 }) : null))
        : h("p", { className: "soft" }, ready ? "Ask something that the data was about, then something that it was not." : "Let a model answer first: choose it at the side.")),
    wrong ? h("p", { className: "note bad", role: "alert" }, wrong) : null,
    kept ? h("p", { className: "note good", role: "status" }, kept) : null,
    h("form", { className: "compose", onSubmit: (e) => { e.preventDefault(); send(); } },
      h("textarea", { value: draft, rows: 3, "aria-label": "Your message", placeholder: ready ? "Your message; Enter sends it" : "No model answers yet", disabled: !ready,
        onChange: (e) => setDraft(e.target.value), onKeyDown: (e) => { if (e.key === "Enter" && !e.shiftKey && !e.nativeEvent.isComposing) { e.preventDefault(); send(); } } }),
      h("div", { className: "row" },
        busy ? h("button", { type: "button", className: "button", onClick: () => abort.current?.abort() }, "Stop")
          : h("button", { type: "submit", className: "button first", disabled: !ready || !draft.trim() }, "Send"),
        h("button", { type: "button", className: "button plain", disabled: busy || !turns.length, onClick: () => { setTurns([]); setKept(""); setWrong(""); } }, "New conversation"),
        h("button", { type: "button", className: "button plain", disabled: busy || !turns.length, onClick: keep }, "Keep it as a training row"))));
}

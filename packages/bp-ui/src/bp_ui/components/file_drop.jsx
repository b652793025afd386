/* An upload by choosing or dropping a file: streamed to the API, with progress. */
import { createElement as h, useRef, useState } from "react";
import env from "$/env.json";
import { getBackendURL } from "$/utils/state";

export function FileDrop({ onUploaded }) {
  const [told, tell] = useState(""), [bad, setBad] = useState(false), [over, setOver] = useState(false), busy = useRef(false);
  const send = (file) => {
    if (!file || busy.current) return;
    busy.current = true; setBad(false); tell(`Uploading ${file.name}`);
    const socket = new URL("api/v1/datasets/upload", getBackendURL(env.EVENT));
    socket.protocol = socket.protocol.replace("ws", "http");
    socket.searchParams.set("name", file.name);
    const request = new XMLHttpRequest();
    request.open("POST", socket);
    request.setRequestHeader("content-type", "application/octet-stream");
    request.upload.onprogress = (e) => e.lengthComputable && tell(`Uploading ${file.name}: ${Math.floor((e.loaded / e.total) * 100)} %`);
    request.onloadend = () => {
      busy.current = false;
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* no answer */ }
      if (request.status === 201) { tell(`${answer.name} is here`); onUploaded?.(answer.path); }
      else { setBad(true); tell(answer.error ? `${answer.error.code ?? request.status}: ${answer.error.message}` : "The upload was cut off; try again."); }
    };
    request.send(file);
  };
  return h("div", { className: "stack" },
    h("label", { className: over ? "drop over" : "drop", onDragOver: (e) => { e.preventDefault(); setOver(true); }, onDragLeave: () => setOver(false), onDrop: (e) => { e.preventDefault(); setOver(false); send(e.dataTransfer.files[0]); } },
      h("b", null, "Choose a file, or drop one here"),
      h("span", { className: "soft small" }, "JSONL, JSON, CSV, TSV, Parquet, text; compressed too"),
      h("input", { type: "file", accept: ".jsonl,.ndjson,.json,.csv,.tsv,.txt,.md,.parquet,.arrow,.gz,.zst,.xz,.bz2", onChange: (e) => { send(e.target.files[0]); e.target.value = ""; } })),
    h("p", { role: "status", className: told ? (bad ? "note bad" : "note good") : "visually-hidden" }, told));
}

"use strict";
// What a server says is only ever inserted as text: no answer, title or document can become markup.

const MARKER = /\[(\d{1,2}(?:, ?\d{1,2}){0,7})\]/g; // the form that the server resolves
const AROUND = 20000; // code points of a document that are shown on either side of a quote
const FAILURES = 8; // lost connections in a row after which an answer is no longer followed
const LISTED = 500; // documents shown

const GROUNDING = {
  weak: "The sources say little about this.",
  partial: "Not every claim is carried by the source that it names.",
  uncited: "No source carries this answer.",
};

const $ = (id) => document.getElementById(id);
const wide = matchMedia("(min-width: 60rem)");
const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const say = (text) => { $("status").textContent = text; };

function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status; // 0: no answer came
  }
}

async function call(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers }).catch(() => {
    throw new Problem(0, "The server cannot be reached.");
  });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const message = problem.detail || `The server answered ${response.status} ${response.statusText}`;
  if (response.status === 401) askForKey(message);
  throw new Problem(response.status, message);
}

const json = async (path, options) => (await call(path, options)).json();

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", id = "", data = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("id: ")) id = line.slice(4);
      else if (line.startsWith("data: ")) data = line.slice(6);
      else if (line === "" && data) {
        yield { id, event: JSON.parse(data) };
        data = "";
      }
    }
  }
}

// One question and its answer.
class Turn {
  constructor(question, path = null) {
    Object.assign(this, { question, path, last: "", ended: false, stopped: false, idempotencyKey: `page-${Date.now()}-${Math.random()}` });
    this.answer = element("div", { className: "answer" });
    this.article = element("article", {}, element("h2", {}, question), this.answer);
    this.clear();
    $("hint").hidden = true;
    $("log").append(this.article);
    $("log").scrollTop = $("log").scrollHeight;
  }

  clear() {
    this.text = "";
    this.open = []; // the numbers in the text that no citation has reached, in order
    this.answer.replaceChildren();
  }

  // Show events up to the last one; after a lost connection, only those that follow the last one shown.
  async follow() {
    for (let failures = 0; ; failures++) {
      try {
        const response = await this.connect();
        for await (const { id, event } of response.status === 204 ? [] : eventsOf(response)) {
          if (failures) say("Answering…");
          failures = 0;
          this.last = id;
          this.show(event);
        }
      } catch (error) {
        if (error.status >= 400 && (error.status < 500 || !this.path)) throw error;
      }
      if (this.stopped && !this.path) this.end({ status: "cancelled" });
      if (this.ended) return;
      if (failures >= FAILURES) throw new Problem(0, "The server cannot be reached. Reload this page later to see the answer.");
      say("The connection was lost. Trying again…");
      await wait(Math.min(8000, 250 * 2 ** failures));
    }
  }

  async connect() {
    if (this.path) return call(`${this.path}/events`, { headers: this.last ? { "Last-Event-ID": this.last } : {} });
    const headers = { Accept: "text/event-stream", "Content-Type": "application/json", "Idempotency-Key": this.idempotencyKey };
    const response = await call("/chat", { method: "POST", headers, body: JSON.stringify({ question: this.question }) });
    this.path = response.headers.get("Content-Location");
    sessionStorage.setItem("chat", this.path);
    if (this.stopped) this.stop();
    return response;
  }

  async stop() {
    this.stopped = true;
    say("Stopping…");
    if (this.path) await call(`${this.path}/cancel`, { method: "POST" }).catch((error) => say(error.message));
  }

  show(event) {
    const log = $("log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
    if (event.type === "response.output_text.delta") this.write(event.delta);
    else if (event.type === "response.output_text.annotation.added") this.cite(event.annotation);
    else if (event.type === "ragqueue:sources") this.sources = event.sources;
    else if (event.type === "ragqueue:restarted") {
      if (this.text) say("The answer begins again.");
      this.clear();
    } else if (/^response\.(completed|incomplete|failed|cancelled)$/.test(event.type)) this.end(event.response);
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  write(text) {
    let at = 0;
    for (const marker of text.matchAll(MARKER)) {
      if (isCode(this.text + text.slice(0, marker.index))) continue;
      const parts = marker[0].split(/(\d+)/).map((part) => (/\d/.test(part) ? element("span", {}, part) : part));
      this.open.push(...parts.filter((part) => part.nodeType));
      this.answer.append(text.slice(at, marker.index), element("span", { className: "marker" }, ...parts));
      at = marker.index + marker[0].length;
    }
    if (at < text.length) this.answer.append(text.slice(at));
    this.text += text;
  }

  // Citations come in the order of their numbers in the text.
  cite(citation) {
    const at = this.open.findIndex((node) => node.textContent === String(citation.n));
    if (at < 0) return;
    const source = this.sources?.find(({ n }) => n === citation.n);
    this.open.splice(0, at + 1).at(-1).replaceWith(citationButton({ ...citation, title: source?.title || source?.source }));
  }

  end({ status, answer, error }) {
    this.ended = true;
    if (answer && answer.text !== this.text) {
      this.clear();
      this.write(answer.text);
      answer.citations.forEach((citation) => this.cite(citation));
    }
    if (error) this.note(error.message, "error");
    if (status === "cancelled") this.note("Stopped.");
    if (status === "incomplete") this.note("The answer was cut off: the model reached its limit of length.");
    if (answer?.grounding in GROUNDING) this.note(GROUNDING[answer.grounding]);
    if (answer?.nearest?.length) {
      this.note("The nearest passages:");
      this.article.append(element("ul", { className: "nearest" }, ...answer.nearest.map((passage) => element("li", {}, passageButton(passage)))));
    }
    say({ completed: "The answer is complete.", failed: "No answer.", cancelled: "Stopped." }[status] ?? "The answer was cut off.");
  }

  note(text, className = "note") {
    this.article.append(element("p", { className }, text));
  }
}

// A bracket in code is an index or a list, as in `a[1]`: the server cites nothing there.
function isCode(before) {
  if (before.endsWith("\\")) return true;
  const lineStart = before.lastIndexOf("\n") + 1;
  let fence = ""; // the one that is open
  for (const [, mark] of before.slice(0, lineStart).matchAll(/^[ \t]*(`{3,}|~{3,})/gm)) {
    if (!fence) fence = mark;
    else if (mark.startsWith(fence)) fence = "";
  }
  return fence !== "" || (/(?:\S|[=,([{+]\s+)$/.test(before) && before.slice(lineStart).split("`").length % 2 === 0);
}

const placeOf = ({ title, source, page }) => (title || source || "Document") + (page ? `, page ${page}` : "");

function citationButton(citation) {
  const doubt = citation.supported === false ? ": the passage does not carry this claim" : "";
  const place = placeOf(citation) + doubt;
  const named = { ariaLabel: `Source ${citation.n}, ${place}`, ariaDescription: citation.quote };
  const button = element("button", { type: "button", className: doubt ? "cite doubtful" : "cite", ...named }, String(citation.n));
  for (const type of ["mouseenter", "focus"]) button.addEventListener(type, () => showTip(button, citation.quote, place));
  button.addEventListener("blur", hideTip);
  button.addEventListener("mouseleave", (event) => event.relatedTarget !== $("tip") && hideTip());
  button.addEventListener("click", () => openSource(citation, button));
  return button;
}

function passageButton(passage) {
  const button = element("button", { type: "button" }, element("strong", {}, placeOf(passage)), element("span", {}, passage.text));
  button.addEventListener("click", () => openSource(passage, button));
  return button;
}

function showTip(button, quote, place) {
  const tip = $("tip"), box = button.getBoundingClientRect();
  tip.replaceChildren(element("q", {}, quote), element("span", {}, place));
  tip.hidden = false;
  tip.style.left = 0; // at the edge of the window it would be measured narrower than it is
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${box.top > tip.offsetHeight + 8 ? box.top - tip.offsetHeight : box.bottom}px`;
}

function hideTip() {
  $("tip").hidden = true;
}

let opener = null; // the button whose passage the panel shows

async function openSource(passage, button) {
  opener = button;
  hideTip();
  $("source-title").textContent = passage.title || passage.source || "Document";
  $("source-place").textContent = passage.page ? `Page ${passage.page}` : "";
  $("source-text").replaceChildren("Loading…");
  if (!$("source").open) wide.matches ? $("source").show() : $("source").showModal();
  $("source-close").focus();
  try {
    const response = await call(`/documents/${encodeURIComponent(passage.document_id)}/text?version=${passage.version}`);
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(await response.arrayBuffer());
    if (opener === button) showPassage(text, passage);
  } catch (error) {
    if (opener === button) $("source-text").replaceChildren(error.message);
  }
}

function showPassage(text, { start, end }) {
  const points = Array.from(text); // offsets count code points, JavaScript's strings UTF-16 units
  const cut = (from, to) => points.slice(from, to).join("");
  const first = Math.max(0, start - AROUND), last = end + AROUND;
  const mark = element("mark", {}, cut(start, end));
  $("source-text").replaceChildren((first ? "…" : "") + cut(first, start), mark, cut(end, last) + (last < points.length ? "…" : ""));
  mark.scrollIntoView({ block: "center" });
}

let turn = null; // the question that is being answered

async function run(next) {
  turn = next;
  $("log").ariaBusy = "true";
  [$("send").hidden, $("stop").hidden] = [true, false];
  say("Answering…");
  try {
    await turn.follow();
  } catch (error) {
    turn.note(error.message, "error");
    if (!turn.path) $("question").value ||= turn.question;
    say("No answer.");
  }
  if (document.activeElement === $("stop")) $("question").focus();
  [$("send").hidden, $("stop").hidden] = [false, true];
  $("log").ariaBusy = "false";
  turn = null;
}

// A question that was asked before the page was loaded again is followed to its end.
async function resume() {
  const path = sessionStorage.getItem("chat");
  if (!path || turn) return;
  const chat = await json(path).catch((error) => error.status === 404 && sessionStorage.removeItem("chat"));
  if (chat && !turn) run(new Turn(chat.question, path));
}

function askForKey(message) {
  $("key-note").textContent = `${message} (the key stays in this tab)`;
  if (!$("key-form").hidden) return;
  $("key-form").hidden = false;
  $("key").focus();
}

let listed = ""; // the list as it is shown: it is only built anew when it changed

async function refresh() {
  try {
    const { documents, next } = await json(`/documents?limit=${LISTED}`);
    $("library-note").textContent = next ? `Only the first ${LISTED} are listed.` : documents.length ? "" : "No documents yet.";
    $("count").textContent = `(${documents.length}${next ? "+" : ""})`;
    if (listed !== JSON.stringify(documents)) $("documents").replaceChildren(...documents.map(documentRow));
    listed = JSON.stringify(documents);
  } catch (error) {
    $("library-note").textContent = error.message;
  }
}

function documentRow(item) {
  const name = item.title || item.source;
  const said = item.error || { ready: "", pending: "being read" }[item.status] || "";
  const button = element("button", { type: "button", ariaLabel: `Delete ${name}`, title: "Delete" }, "×");
  button.addEventListener("click", async () => {
    if (!confirm(`Delete “${name}”, with every answer that quotes it?`)) return;
    await call(`/documents/${encodeURIComponent(item.id)}`, { method: "DELETE" }).catch((error) => alert(error.message));
    await refresh();
    $("library").querySelector("summary").focus();
  });
  return element("li", {}, element("span", { title: item.source }, name, element("small", {}, said)), button);
}

async function upload(files) {
  document.querySelectorAll("#uploads .error").forEach((row) => row.remove());
  const rows = files.map((file) => element("li", {}, element("span", {}, file.name, element("small", {}, "waiting"))));
  $("uploads").append(...rows);
  for (const [at, file] of files.entries()) {
    const body = new FormData();
    body.append("file", file);
    rows[at].querySelector("small").textContent = "uploading";
    await json("/documents", { method: "POST", body }).then(({ job_id }) => void watch(job_id, rows[at]), (error) => fail(rows[at], error));
  }
}

async function watch(job_id, row) {
  refresh();
  try {
    for (let job = null; job_id && job?.status !== "completed"; await wait(700)) {
      job = await json(`/jobs/${encodeURIComponent(job_id)}`);
      row.querySelector("small").textContent = job.status === "queued" ? "waiting for a worker" : "being read";
      if (job.status === "failed" || job.status === "cancelled") throw new Error(job.error?.message ?? job.status);
    }
    row.remove();
  } catch (error) {
    fail(row, error);
  }
  refresh();
}

function fail(row, error) {
  row.className = "error";
  row.querySelector("small").textContent = error.message;
}

async function checkReady() {
  if (document.hidden) return;
  const body = await fetch("/readyz").then((response) => response.json()).catch(() => null);
  const failed = Object.entries(body?.checks ?? {}).flatMap(([name, said]) => (said === "ok" ? [] : `${name}: ${said}`));
  const workers = body && `Ready, ${body.workers} ${body.workers === 1 ? "worker" : "workers"}`;
  const text = body ? failed.join("; ") || body.note || workers : "The server cannot be reached";
  $("ready").className = !body || failed.length ? "bad" : body.note ? "fair" : "good";
  $("ready").textContent = text[0].toUpperCase() + text.slice(1);
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || turn) return;
  $("question").value = "";
  run(new Turn(question));
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => turn?.stop());
$("tip").addEventListener("mouseleave", hideTip);
$("log").addEventListener("scroll", hideTip);
$("source-close").addEventListener("click", () => $("source").close());
$("source").addEventListener("close", () => {
  opener?.focus();
  hideTip();
});
wide.addEventListener("change", () => {
  $("source").close();
  $("library").open = wide.matches;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (!$("tip").hidden) hideTip();
  else if ($("source").open) $("source").close();
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value.trim());
  [$("key").value, $("key-form").hidden] = ["", true];
  refresh();
  resume();
});
$("files").addEventListener("change", () => {
  const files = Array.from($("files").files);
  $("files").value = "";
  upload(files);
});
document.addEventListener("visibilitychange", checkReady);
setInterval(() => {
  checkReady();
  if (listed.includes('"status":"pending"')) refresh();
}, 15000);
$("library").open = wide.matches;
checkReady();
refresh();
resume();

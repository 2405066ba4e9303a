// Follows the event stream and brings what it tells into the page. What changes the
// shape of the page (blades, cards, VFs and who has them) loads it again.
"use strict";

const live = document.getElementById("live");
const gone = document.getElementById("gone");
let lastWord = Date.now();

function text(at, value) { if (at && at.textContent !== String(value)) at.textContent = value; }
function fault(e) { return e ? `${e.what}: ${e.why} [${e.code}]` : ""; }
function cell(row, value, className) {
  const td = document.createElement("td");
  td.textContent = value;
  if (className) td.className = className;
  row.append(td);
}

let reloading;
function reload() { reloading ??= setTimeout(() => location.reload(), 300); }

function blade(o) {
  const at = document.querySelector(`[data-blade="${CSS.escape(o.metadata.name)}"]`);
  if (!at || o.deleted) return reload();
  const field = (name) => at.querySelector(`[data-field="${name}"]`);
  const s = o.status;
  if (field("vfs").textContent !== String(s.vfs) || field("used").textContent !== String(s.used)) return reload();
  text(field("running"), s.running);
  text(field("wanted"), s.wanted);
  text(field("proved"), s.proved ? "proved" : "not proved");
  text(field("reason"), fault(s.reason));
  const state = at.querySelector(".state");
  text(state, s.state);
  state.dataset.state = s.state;
}

function rules(o) {
  const at = document.querySelector(`[data-blade="${CSS.escape(o.metadata.name)}"] [data-rules]`);
  if (!at || o.deleted) return;
  const s = o.status;
  text(at.querySelector("[data-sum]"), `${s.hardware} in hardware, ${s.mixed} mixed, ${s.software} in software`);
  const body = document.createElement("tbody");
  for (const r of s.rules ?? []) {
    const row = document.createElement("tr");
    row.dataset.rule = r.name;
    cell(row, r.name);
    cell(row, `${r.place.slice(0, 1).toUpperCase()} ${r.place}`);
    cell(row, r.hardware.packets, "n");
    cell(row, r.software.packets, "n");
    cell(row, r.reason ?? "");
    body.append(row);
  }
  at.tBodies[0].replaceWith(body);
}

// capacity reads the report's summary again, soon: it costs the manager more than an event.
let due;
function capacity() {
  due ??= setTimeout(async () => {
    due = undefined;
    const answer = await fetch("api/v1/reports/capacity?levels=fleet").catch(() => undefined);
    if (!answer?.ok) return; // the stream says what is wrong
    const list = document.createElement("ul");
    list.id = "capacity";
    for (const line of (await answer.json()).status.summary) list.append(Object.assign(document.createElement("li"), { textContent: line }));
    document.getElementById("capacity").replaceWith(list);
  }, 2000);
}

const shapes = new Set(["chassis", "network", "profile", "ruleset"]);

// A manager says something every ten seconds. One that was stopped, or is behind a cable
// that was cut, leaves the connection open and says nothing.
const silence = 25000;

function lost() {
  text(live, "not connected");
  gone.querySelector("time").textContent = new Date(lastWord).toLocaleTimeString();
  gone.hidden = false;
}

function heard() {
  lastWord = Date.now();
  gone.hidden = true;
  text(live, "live");
}

function listen() {
  const source = new EventSource(`api/v1/watch?since=${document.body.dataset.cursor}`);
  source.onopen = heard;
  source.addEventListener("hello", heard);
  source.addEventListener("breath", heard);
  source.addEventListener("blade", (e) => { heard(); blade(JSON.parse(e.data)); capacity(); });
  source.addEventListener("rules", (e) => { heard(); rules(JSON.parse(e.data)); capacity(); });
  source.addEventListener("event", (e) => { heard(); text(document.getElementById("revision"), JSON.parse(e.data).metadata.name); });
  source.addEventListener("reload", reload);
  for (const name of shapes) source.addEventListener(name, () => { heard(); reload(); });
  source.onerror = () => {
    lost();
    if (source.readyState === EventSource.CLOSED) setTimeout(ask, 2000);
  };
  setInterval(() => { if (Date.now() - lastWord > silence) lost(); }, 1000);
}

// ask finds out whether a stream that was refused can be had by loading the page again.
function ask() {
  fetch("./", { cache: "no-store" }).then((r) => (r.ok ? reload() : setTimeout(ask, 2000)), () => setTimeout(ask, 2000));
}

listen();

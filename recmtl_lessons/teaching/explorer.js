// The face of an Explorer: controls, buttons, one picture, one sentence about it.
// Python owns every result; this file owns how a hand, a keyboard and a screen reader meet it.

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
};

const readable = (value) => String(Number(Number(value).toPrecision(4)));

// Every explorer on a page loads this file anew, so a count alone would give the same ids to two of them.
const mine = Math.random().toString(36).slice(2);
let lastId = 0;
const newId = () => `recmtl-${mine}-${++lastId}`;

// Each kind of control: { element, get(), set(value) }; it calls `moved` when a person changes it.

function slider(spec, moved) {
  const id = newId();
  const { stops } = spec;
  const low = stops[0];
  const high = stops[stops.length - 1];
  let value = spec.value;
  const range = make("input", { type: "range", id, min: 0, max: stops.length - 1, step: 1 });
  const typed = make("input", {
    type: "number", step: "any", min: low, max: high,
    "aria-label": `${spec.label}, typed${spec.unit ? ` in ${spec.unit}` : ""}`,
  });
  const nearest = (v) => stops.reduce((best, s, i) => (Math.abs(s - v) < Math.abs(stops[best] - v) ? i : best), 0);
  const set = (v) => {
    value = v;
    range.value = nearest(v);
    range.setAttribute("aria-valuetext", `${readable(v)} ${spec.unit}`.trim());
    if (document.activeElement !== typed || typed.valueAsNumber !== v) typed.value = readable(v);
  };
  range.addEventListener("input", () => { set(stops[Number(range.value)]); moved(); });
  typed.addEventListener("change", () => {
    const wish = typed.valueAsNumber;
    set(Number.isFinite(wish) ? Math.min(high, Math.max(low, spec.whole ? Math.round(wish) : wish)) : value);
    moved();
  });
  set(value);
  const element = make(
    "div", { class: "recmtl-control" },
    make("label", { for: id }, spec.label),
    make("span", { class: "recmtl-typed" }, typed, make("span", { "aria-hidden": "true" }, spec.unit)),
    range,
  );
  return { element, get: () => value, set };
}

function choice(spec, moved) {
  const id = newId();
  const select = make("select", { id }, ...spec.options.map((o) => make("option", { value: o }, o)));
  select.addEventListener("change", moved);
  select.value = spec.value;
  const element = make("div", { class: "recmtl-control" }, make("label", { for: id }, spec.label), select);
  return { element, get: () => select.value, set: (v) => { select.value = v; } };
}

function toggle(spec, moved) {
  const box = make("input", { type: "checkbox" });
  box.addEventListener("change", moved);
  box.checked = spec.value;
  const element = make("div", { class: "recmtl-control" }, make("label", { class: "recmtl-toggle" }, box, spec.label));
  return { element, get: () => box.checked, set: (v) => { box.checked = v; } };
}

const KINDS = { slider, choice, toggle };

function render({ model, el }) {
  const current = () => Object.fromEntries(controls.map(([name, control]) => [name, control.get()]));
  const send = () => {
    const values = current();
    model.set("values", values);
    model.save_changes();
    const entry = remembered.get(keyOf(values, seed));
    if (entry) show(entry);
  };
  const controls = model.get("controls").map((spec) => [spec.name, KINDS[spec.kind](spec, send)]);

  const button = (text, what, title) => {
    const b = make("button", { type: "button", title });
    b.textContent = text;
    b.addEventListener("click", () => model.send({ press: what }));
    return b;
  };
  const stop = button("Stop", "stop", "Stop the training where it is");
  const buttons = make("div", { class: "recmtl-buttons" }, stop);
  if (model.get("seeded")) buttons.append(button("New seed", "new_seed", "Run again with a new seed"));
  buttons.append(button("Reset", "reset", "Back to the values at the start"));

  const bar = make("progress", { max: 1, value: 0, "aria-label": "Progress" });
  const status = make("span", { class: "recmtl-status", role: "status" });
  const picture = make("img", { alt: "" });
  const summary = make("p", { class: "recmtl-summary", role: "status" });
  const titleId = newId();
  const root = make(
    "section",
    { class: "recmtl-explorer", "aria-labelledby": titleId },
    make("header", {}, make("strong", { id: titleId }, model.get("title")), buttons),
    make("div", { class: "recmtl-controls" }, ...controls.map(([, control]) => control.element)),
    make("div", { class: "recmtl-progress" }, bar, status),
    make("div", { class: "recmtl-picture" }, picture),
    summary,
  );
  // Keys belong to the controls here, not to the notebook, which would take the arrows for itself. Its shortcuts are
  // matched from the focused element outwards, in Notebook 7 before the event arrives here, so each element says so.
  for (const element of root.querySelectorAll("*")) element.dataset.lmSuppressShortcuts = "true";
  root.addEventListener("keydown", (event) => event.stopPropagation());
  el.append(root);

  // Finished pictures are remembered here too: going back to one needs no kernel.
  const remembered = new Map();
  const keyOf = (values, seed) => JSON.stringify([...controls.map(([name]) => values[name]), seed]);
  let shown = null;
  let latest = null; // shown, or about to be
  let seed;
  const discard = (entry) => {
    if (entry && entry !== shown && remembered.get(entry.key) !== entry) URL.revokeObjectURL(entry.url);
  };
  const remember = (entry) => {
    const earlier = remembered.get(entry.key);
    remembered.delete(entry.key);
    remembered.set(entry.key, entry);
    discard(earlier);
    if (remembered.size > 64) {
      const [oldest, old] = remembered.entries().next().value;
      remembered.delete(oldest);
      discard(old);
    }
  };
  const show = async (entry) => {
    latest = entry;
    const next = new Image();
    next.src = entry.url;
    const ready = await next.decode().then(() => true, () => false); // until then the old picture stays
    if (entry !== latest) return discard(entry);
    if (!ready) {
      latest = shown;
      return discard(entry);
    }
    const before = shown;
    shown = entry;
    picture.src = entry.url;
    picture.alt = entry.text;
    picture.dataset.values = JSON.stringify(entry.values);
    picture.dataset.final = String(entry.final);
    summary.setAttribute("aria-live", entry.final ? "polite" : "off"); // read out once, not at every step
    summary.textContent = entry.text;
    discard(before);
  };
  const showFrame = () => {
    const { png, text, values, final } = model.get("frame");
    if (!png) return;
    seed = values.seed;
    const key = keyOf(values, seed);
    // A picture from memory may be ahead of the kernel, which still sends those of earlier moves: no way back.
    const ahead = latest?.final && latest.key === keyOf(current(), seed);
    if (ahead && (!final || remembered.has(key))) return;
    const entry = { key, text, values, final, url: URL.createObjectURL(new Blob([png], { type: "image/png" })) };
    if (final) remember(entry);
    if (!ahead) show(entry);
  };
  const showStatus = () => {
    const { state, done, total, message } = model.get("status");
    const running = state === "running";
    root.setAttribute("aria-busy", String(running));
    stop.disabled = !(running && total); // what cannot say how far it is cannot be stopped either
    bar.hidden = !running;
    if (total) { bar.value = done / total; } else { bar.removeAttribute("value"); }
    status.textContent = message;
    status.classList.toggle("recmtl-error", state === "error");
    status.setAttribute("role", state === "error" ? "alert" : "status");
  };
  const showValues = () => {
    for (const [name, control] of controls) control.set(model.get("values")[name]);
  };

  model.on("change:frame", showFrame);
  model.on("change:status", showStatus);
  model.on("change:values", showValues);
  showValues();
  showStatus();
  showFrame();
  return () => {
    model.off("change:frame", showFrame);
    model.off("change:status", showStatus);
    model.off("change:values", showValues);
    for (const entry of new Set([...remembered.values(), shown])) if (entry) URL.revokeObjectURL(entry.url);
  };
}

export default { render };

// What stands beside the picture: ways to colour, the classes and their objects, views.

const LIST_OPEN = 40; // objects up to which the list shows them all

/** An element with a class and children; text is only ever text. */
function element(tag, kind = "", children = [], properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  if (kind) made.className = kind;
  made.append(...[children].flat());
  return made;
}

const cssColor = ([r, g, b]) => `rgb(${r}, ${g}, ${b})`;
const percent = (share) => (share >= 0.0995 ? `${Math.round(100 * share)} %` : `${(100 * share).toFixed(1)} %`);

/** A row of buttons of which one is pressed; returns a function that presses one. */
function choice(place, entries, chosen) {
  const buttons = entries.map(([key, name, title]) => {
    const button = element("button", "", name, { type: "button", title });
    button.dataset.key = key;
    button.addEventListener("click", () => chosen(key));
    place.append(button);
    return button;
  });
  return (key) => buttons.forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.key === key)));
}

class Panel {
  constructor(app) {
    this.app = app;
    const { scan } = app, byId = (id) => document.getElementById(id);
    Object.assign(this, { list: byId("list"), legend: byId("legend"), listTitle: byId("list-title"), rows: new Map() });
    const titles = Object.entries(app.modes).map(([key, [name, meaning]], k) => [key, name, `${meaning} (${k + 1})`]);
    this.pressMode = choice(byId("modes"), titles, (key) => app.setMode(key));
    const sources = { predicted: "Prediction", annotated: "Annotation" };
    const known = Object.keys(scan.sources).map((key) => [key, sources[key], ""]);
    if (known.length === 2) known.push(["beside", "Both", "Prediction and annotation side by side (B)"]);
    byId("sources").hidden = known.length < 2;
    this.pressSource = choice(byId("sources"), known, (key) => (key === "beside" ? app.setBeside(true) : app.setSource(key)));
    byId("segments").hidden = !known.length;
    byId("show-all").addEventListener("click", () => app.showAll());
    this.bindCuts(byId("cut"), byId("walls"), byId("cut-text"));
    this.fillViews(byId("views"), byId("strip"));
  }

  bindCuts(cut, walls, text) {
    const { app } = this;
    Object.assign(cut, { min: 0.1, max: app.tallest, step: 0.05, value: Math.min(app.cut, app.tallest) });
    this.tellCut = () => { text.textContent = app.cut >= app.tallest ? "nothing" : `above ${distanceText(app.cut)}`; };
    cut.addEventListener("input", () => { app.setCut(Number(cut.value)); this.tellCut(); });
    walls.checked = app.throughWalls;
    walls.addEventListener("change", () => app.setThroughWalls(walls.checked));
    this.tellCut();
  }

  fillViews(section, strip) {
    const { app } = this;
    section.hidden = !app.scan.views.length;
    this.views = app.scan.views.map((view, k) => {
      const image = element("img", "", [], { src: view.thumbnail, alt: `view ${view.name}`, loading: "lazy" });
      const name = view.warning ? `⚠ ${view.name}` : view.name;
      const button = element("button", view.warning ? "view warned" : "view", [image, element("span", "", name)], { type: "button" });
      button.title = view.warning || "Look through this camera";
      button.addEventListener("click", () => app.lookThrough(k));
      for (const [event, which] of [["pointerenter", k], ["pointerleave", -1], ["focus", k], ["blur", -1]]) {
        button.addEventListener(event, () => app.showView(which));
      }
      strip.append(button);
      return button;
    });
  }

  /** The list of a source's classes, each with its objects. */
  fillList(source) {
    const { app } = this;
    this.list.replaceChildren();
    this.rows.clear();
    if (!source) return;
    const byClass = new Map();
    source.objects.forEach((one, k) => {
      if (!byClass.has(one.label + 1)) byClass.set(one.label + 1, []);
      byClass.get(one.label + 1).push(k + 1);
    });
    const there = [...source.pointsOfClass.keys()].filter((k) => source.pointsOfClass[k] || byClass.has(k));
    there.sort((a, b) => (a === 0) - (b === 0) || source.pointsOfClass[b] - source.pointsOfClass[a]);
    const open = source.objects.length <= LIST_OPEN;
    for (const label of there) this.list.append(this.classRow(source, label, byClass.get(label) || [], open));
    this.listTitle.textContent = source.objects.length === 1 ? "1 object" : `${source.objects.length} objects`;
    this.tellHidden();
  }

  classRow(source, label, objects, open) {
    const { app } = this, share = source.pointsOfClass[label] / app.scan.points;
    const eye = element("button", "eye", [], { type: "button" });
    eye.addEventListener("click", () => app.toggleClass(label));
    const name = element("button", "name", app.className(label), { type: "button" });
    const swatch = element("i", "swatch");
    swatch.style.background = cssColor(app.classColor(label));
    const count = objects.length ? element("span", "count", String(objects.length)) : "";
    const head = element("div", "head", [eye, swatch, name, count, element("span", "share", percent(share))]);
    const inside = element("div", "objects", objects.map((object) => this.objectRow(source, object)), { hidden: !open });
    name.addEventListener("click", () => {
      if (objects.length) inside.hidden = !inside.hidden;
      else app.select({ source: source.name, object: 0, label });
    });
    const row = element("li", "class", [head, inside]);
    row.dataset.label = label;
    this.rows.set(`class ${label}`, { row: head, inside, eye, whole: row, label, name: app.className(label) });
    return row;
  }

  objectRow(source, object) {
    const { app } = this, one = source.objects[object - 1], size = subtract(one.high, one.low);
    const score = one.score === null ? "" : element("span", "score", one.score.toFixed(2), { title: "score" });
    const text = size.map((metres) => metres.toFixed(1)).join(" × ") + " m";
    const swatch = element("i", "swatch");
    swatch.style.background = cssColor(one.color);
    const row = element("button", "object", [swatch, element("span", "number", `#${one.id}`), element("span", "extent", text), score], { type: "button" });
    row.addEventListener("click", () => { app.select({ source: source.name, object, label: one.label + 1 }); app.focusSelected(); });
    this.rows.set(`object ${object}`, { row });
    return row;
  }

  /** The list follows what is selected. */
  follow(selected) {
    for (const { row } of this.rows.values()) row.classList.remove("selected");
    if (!selected) return;
    const ofClass = this.rows.get(`class ${selected.label}`);
    const found = selected.object ? this.rows.get(`object ${selected.object}`) : ofClass;
    if (!found) return;
    if (selected.object && ofClass) ofClass.inside.hidden = false;
    found.row.classList.add("selected");
    found.row.scrollIntoView({ block: "nearest" });
  }

  tellHidden() {
    let any = false;
    for (const { eye, whole, label, name } of this.rows.values()) {
      if (!eye) continue;
      const hidden = Boolean(this.app.hidden[label]);
      any = any || hidden;
      eye.setAttribute("aria-pressed", String(!hidden));
      eye.title = `${hidden ? "Show" : "Hide"} ${name}`;
      whole.classList.toggle("hidden", hidden);
    }
    document.getElementById("show-all").hidden = !any;
  }

  tellMode(mode) {
    this.pressMode(mode);
    const { app } = this, children = [], meaning = app.modes[mode] ? app.modes[mode][1] : "";
    if (meaning) children.push(element("p", "", meaning));
    if (mode === "confidence") children.push(this.gradient("0", "1"));
    if (mode === "seen") children.push(this.gradient("1", String(app.scan.views.length)));
    if (mode === "word") children.push(this.gradient(app.scan.word.low.toFixed(2), app.scan.word.high.toFixed(2)));
    if (mode === "difference") {
      for (const [color, name] of [[RIGHT, "right"], [WRONG, "wrong"], [NOTHING, "not annotated"]]) {
        const swatch = element("i", "swatch");
        swatch.style.background = cssColor(color);
        children.push(element("span", "key", [swatch, name]));
      }
    }
    this.legend.replaceChildren(...children);
  }

  gradient(low, high) {
    const bar = element("i", "ramp");
    bar.style.background = `linear-gradient(90deg, ${RAMP.map(cssColor).join(", ")})`;
    return element("div", "gradient", [low, bar, high]);
  }
}

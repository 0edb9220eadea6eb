// The page: what is shown, and the loop that draws it.

const CUT_ABOVE_M = 2.0; // above the floor: ceilings and what hangs there
const WALL_M = 0.25;     // of the sides of the scan that face the viewer
const FLOOR_M = 0.12;
const BESIDE = 1.45;       // so much farther away where there are two pictures

class App extends Stage {
  constructor(scan) {
    super(scan);
    Object.assign(this, {
      modes: colorModes(scan), selected: null, beside: false,
      measuring: false, measure: [], labelled: true, cameras: scan.views.length > 0, viewShown: -1, throughWalls: true,
      cutByHand: false, seen: [], frames: [], hidden: new Uint8Array(scan.classes.length + 1), overlayStale: true, asleep: true,
    });
    this.source = scan.sources.predicted || scan.sources.annotated || null;
    [this.boxLow, this.boxHigh] = robustBox(scan);
    this.tallest = Math.max(0.2, this.boxHigh[2] - this.boxLow[2] + 0.1);
    this.cut = this.tallest > CUT_ABOVE_M + 0.2 ? CUT_ABOVE_M : this.tallest;
    this.camera = new OrbitCamera(this.boxLow, this.boxHigh);
    this.renderer = new Renderer(this.canvas, scan);
    this.surviveLoss();
    this.labels = new Labels(document.getElementById("labels"), this);
    this.drawing = new Drawing(document.getElementById("lines"), this);
    const keys = keyTable(this);
    this.cards = new Cards(this, keys);
    this.panel = new Panel(this);
    this.search = new Search(this);
    bindPointers(this);
    bindKeys(this, keys);
    this.bindTools();
    this.readLooks();
    this.resize();
    Object.assign(this.camera, this.home());
    new ResizeObserver(() => this.resize()).observe(this.stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.readLooks(); this.redraw(); });
    this.mode = scan.words.length ? "word" : Object.keys(this.modes)[0] || "photo";
    this.panel.tellMode(this.mode);
    this.setSource(this.source && this.source.name);
  }

  bindTools() {
    const pressed = { measure: () => this.measuring, labels: () => this.labelled, cameras: () => this.cameras, surface: () => this.surface };
    const actions = {
      measure: () => this.setMeasuring(!this.measuring), labels: () => this.toggle("labelled"), cameras: () => this.toggle("cameras"), surface: () => this.setSurface(!this.surface),
      reset: () => this.fly(this.home()), keys: () => this.cards.help(),
    };
    const buttons = [...document.querySelectorAll("#tools button")];
    for (const button of buttons) button.addEventListener("click", actions[button.dataset.tool]);
    this.tellTools = () => buttons.forEach((button) => {
      const tool = button.dataset.tool;
      if (pressed[tool]) button.setAttribute("aria-pressed", String(pressed[tool]()));
      button.hidden = (tool === "cameras" && !this.scan.views.length) || (tool === "labels" && !this.source) ||
        (tool === "surface" && !this.scan.faces);
    });
  }

  readLooks() {
    const css = getComputedStyle(document.documentElement), read = (name) => css.getPropertyValue(name).trim();
    const parts = (name) => read(name).match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16) / 255);
    this.looks = {
      above: parts("--above"), below: parts("--below"), accent: read("--accent"), warn: read("--warn"), measure: read("--measure"),
      ink: read("--ink"), soft: read("--soft"), line: read("--line"), font: "system-ui, sans-serif",
    };
    this.light = { ...this.looks, accent: parts("--mark") };
  }

  // ------------------------------------------------------------------------ what is shown

  setMode(mode) {
    if (!this.modes[mode]) return;
    this.mode = mode;
    this.panel.tellMode(mode);
    this.recolor();
  }

  /** Colours by how well each part fits a word that was searched for. */
  setWord(word) {
    this.scan.word = word;
    this.search.tell(word);
    if (this.selected) this.select(null);
    this.setMode("word");
  }

  setSource(name) {
    if (this.beside) this.fly({ distance: this.camera.distance / BESIDE });
    this.beside = false;
    this.source = this.scan.sources[name] || null;
    this.panel.fillList(this.source);
    this.tellSource(name);
  }

  setBeside(beside) {
    if (Object.keys(this.scan.sources).length < 2) return;
    if (beside !== this.beside) this.fly({ distance: this.camera.distance * (beside ? BESIDE : 1 / BESIDE) });
    this.beside = beside;
    if (beside && ["photo", "seen", "word", "difference"].includes(this.mode)) this.setMode("class");
    this.tellSource(beside ? "beside" : this.source.name);
  }

  tellSource(pressed) {
    this.panel.pressSource(pressed);
    this.panel.follow(this.selected && this.source && this.selected.source === this.source.name ? this.selected : null);
    document.getElementById("pane-names").hidden = !this.beside;
    this.seen = [];
    this.recolor();
    this.tellTools();
  }

  recolor() {
    const marks = this.selected ? this.marks(this.selected) : null;
    this.panes.forEach((pane, k) => this.renderer.setColors(k, colorsOf(this.scan, pane.source, this.mode, this.hidden, marks)));
    this.redraw();
  }

  /** Which points belong to what is selected. */
  marks({ source: name, object, label }) {
    const { classOf, objectOf } = this.scan.sources[name];
    return object ? (i) => objectOf[i] === object : (i) => classOf[i] === label && !objectOf[i];
  }

  select(selected) {
    this.selected = selected;
    if (selected && !this.beside && selected.source !== this.source.name) this.setSource(selected.source);
    this.cards.showSelected(selected);
    this.panel.follow(selected && this.source && selected.source === this.source.name ? selected : null);
    this.recolor();
  }

  toggleClass(label) {
    this.hidden[label] = 1 - this.hidden[label];
    this.panel.tellHidden();
    this.recolor();
  }

  showAll() {
    this.hidden.fill(0);
    this.panel.tellHidden();
    this.recolor();
  }

  hideSelected() {
    if (!this.selected) { this.showAll(); return; }
    const { label } = this.selected;
    this.select(null);
    this.toggleClass(label);
  }

  toggle(what) { this[what] = !this[what]; this.tellTools(); this.restale(); }

  setCut(metres) { this.cut = metres; this.cutByHand = true; this.redraw(); }

  setThroughWalls(through) { this.throughWalls = through; this.redraw(); }

  setMeasuring(measuring) {
    this.measuring = measuring;
    this.measure = [];
    this.stage.classList.toggle("measuring", measuring);
    this.tellTools();
    this.restale();
  }

  measuredDistance() { return this.measure.length === 2 ? norm(subtract(...this.measure)) : null; }

  escape() {
    if (this.measuring) this.setMeasuring(false);
    else this.select(null);
  }

  className(label) { return label ? this.scan.classes[label - 1].name : "no class"; }

  classColor(label) { return label ? this.scan.classes[label - 1].color : NOTHING; }

  // --------------------------------------------------------------------------- looking

  home() { return this.camera.home(this.aspect, this.cut); }

  fly(goal) {
    this.camera.flyTo(goal, performance.now());
    this.cards.showThrough(null);
    this.wake();
  }

  focusSelected() {
    if (!this.selected || !this.selected.object) return;
    const one = this.scan.sources[this.selected.source].objects[this.selected.object - 1];
    this.fly(this.camera.around(one.low, one.high));
  }

  lookThrough(k) {
    this.showView(-1);
    this.fly(this.camera.through(this.scan.views[k], this.aspect));
    this.cards.showThrough(this.scan.views[k]);
  }

  showView(k) {
    if (this.viewShown === k) return;
    this.viewShown = k;
    this.panel.views.forEach((button, number) => button.classList.toggle("shown", number === k));
    this.restale();
  }

  tap(at) {
    const camera = this.cameras && !this.measuring ? this.drawing.viewAt(at) : -1;
    if (camera >= 0) { this.lookThrough(camera); return; }
    const found = this.pick(at);
    if (this.measuring) {
      if (found) this.measure = this.measure.length === 2 ? [found.position] : [...this.measure, found.position];
      this.restale();
    } else if (!found || !found.source) this.select(null);
    else {
      const object = found.object && this.scan.sources[found.source].objects[found.object - 1];
      this.select({ source: found.source, object: found.object, label: object ? object.label + 1 : found.label });
    }
  }

  goTo(at) {
    const found = this.pick(at);
    if (found) this.fly({ target: found.position, distance: Math.max(0.6, this.camera.distance * 0.6) });
  }

  /** Names what is under a resting pointer, once the picture rests too. */
  hover(at) {
    clearTimeout(this.hovering);
    if (!at) { this.cards.showTip("", [0, 0]); this.showView(-1); return; }
    const camera = this.cameras ? this.drawing.viewAt(at) : -1;
    if (camera >= 0 || this.viewShown >= 0) this.showView(camera);
    this.hovering = setTimeout(() => {
      if (camera >= 0) { this.cards.showTip(`view ${this.scan.views[camera].name}`, at); return; }
      const found = this.asleep && this.source ? this.pick(at) : null;
      if (!found) { this.cards.showTip("", at); return; }
      const one = found.object ? this.scan.sources[found.source].objects[found.object - 1] : null;
      const name = this.className(one ? one.label + 1 : found.label);
      this.cards.showTip(one && one.score !== null ? `${name} · ${one.score.toFixed(2)}` : name, at);
    }, 60);
  }

  // ------------------------------------------------------------------------------ the loop

  /** The camera was moved by hand. */
  moved() { this.cards.showThrough(null); this.redraw(); }

  redraw() { this.renderer.dirty = true; this.cards.showTip("", [0, 0]); this.wake(); }

  restale() { this.overlayStale = true; this.wake(); }

  wake() {
    if (!this.asleep || !this.width) return;
    this.asleep = false;
    this.lastFrame = 0;
    requestAnimationFrame((now) => this.frame(now));
  }

  frame(now) {
    if (this.lost) return;
    if (this.lastFrame && this.frames.length < 4000) this.frames.push(now - this.lastFrame);
    this.lastFrame = now;
    if (this.camera.advance(now)) this.renderer.dirty = true;
    const scene = this.scene(), did = this.renderer.step(scene, now);
    if (did === "preview" || did === "full") {
      this.drawnCamera = scene.camera;
      this.overlayStale = true;
      this.unread = did === "full";
    }
    if (this.drawnCamera && this.overlayStale && did !== "waiting") this.overlay();
    const rests = did === "idle" && !this.camera.flight;
    if (rests && this.unread) this.readPicture();
    if (rests && !this.overlayStale) { this.asleep = true; this.restful(); return; }
    requestAnimationFrame((next) => this.frame(next));
  }

  /** Which objects the full picture shows, for their labels. */
  readPicture() {
    this.unread = false;
    this.overlayStale = true;
    this.seen = this.panes.map(({ source, pixels: [x, y, width, height] }) =>
      source && this.labelled ? visibleObjects(this.renderer.pointsIn(x, y, width, height), width, source, this.ratio) : []);
  }

  overlay() {
    this.overlayStale = false;
    const { panes } = this;
    this.drawing.draw(panes);
    if (this.labelled) this.labels.place(panes, this.seen, this.selected);
    else this.labels.clear();
  }

  restful() {
    if (!this.settled) return;
    this.settled.forEach((told) => told());
    this.settled = null;
  }

  scene() {
    const camera = this.camera.matrices(this.aspect), cut = this.boxLow[2] + this.cut, [x, y, z] = camera.eye;
    const cuts = this.cut < this.tallest && (this.cutByHand || z > cut + 0.05), far = 1e9;
    const sides = this.throughWalls ? [x < this.boxLow[0], x > this.boxHigh[0], y < this.boxLow[1], y > this.boxHigh[1]] : [];
    return {
      camera, panes: this.panes, faces: this.facesShown, blended: this.mode === "photo", fov: this.camera.fov, ratio: this.ratio, pointScale: 1.5, looks: this.light, marked: Boolean(this.selected),
      inner: [
        sides[0] ? this.boxLow[0] + WALL_M : -far, sides[1] ? this.boxHigh[0] - WALL_M : far,
        sides[2] ? this.boxLow[1] + WALL_M : -far, sides[3] ? this.boxHigh[1] - WALL_M : far,
      ],
      heights: [this.boxLow[2] + FLOOR_M, cuts ? cut : far],
    };
  }
}

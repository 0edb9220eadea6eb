// Mouse, touch and keyboard. One finger or the left button orbits, two fingers or the right button pan
// and zoom; what is not moved is a tap.

const SLACK = 5; // pixels within which a press is a tap

function bindPointers(app) {
  const { canvas } = app, down = new Map();
  let moved = 0;
  const place = (event) => app.inStage(event.clientX, event.clientY);

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    if (!down.size) moved = 0;
    down.set(event.pointerId, place(event));
    if (down.size > 1) moved = SLACK + 1;
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = down.get(event.pointerId), now = place(event);
    if (!before) { if (event.pointerType === "mouse") app.hover(now); return; }
    const dx = now[0] - before[0], dy = now[1] - before[1], height = app.height;
    moved += Math.abs(dx) + Math.abs(dy);
    if (down.size === 2) {
      twoFingers(app, [...down.entries()].find(([id]) => id !== event.pointerId)[1], before, now);
    } else if (moved > SLACK && down.size === 1) {
      const pans = event.buttons & 6 || event.shiftKey;
      if (pans) app.camera.pan(dx / height, dy / height);
      else app.camera.orbit((dx / height) * Math.PI, (dy / height) * Math.PI);
      app.moved();
    }
    down.set(event.pointerId, now);
  });
  const up = (event) => {
    const at = down.get(event.pointerId);
    down.delete(event.pointerId);
    if (at && moved <= SLACK && event.type === "pointerup" && event.button === 0) app.tap(at);
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", () => app.hover(null));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", (event) => app.goTo(place(event)));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 30 : 1, amount = clamped(event.deltaY * lines, -240, 240);
    app.camera.zoom(Math.exp(amount * 0.0016), app.fromMiddle(place(event)));
    app.moved();
  }, { passive: false });
}

function twoFingers(app, other, before, now) {
  const middle = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], was = middle(other, before), is = middle(other, now);
  const apart = (a, b) => Math.max(20, Math.hypot(a[0] - b[0], a[1] - b[1]));
  app.camera.pan((is[0] - was[0]) / app.height, (is[1] - was[1]) / app.height);
  app.camera.zoom(apart(other, before) / apart(other, now), app.fromMiddle(is));
  app.moved();
}

/** Key → [what it does, how]; the help lists them in this order. */
function keyTable(app) {
  const turn = (dx, dy) => (event) => {
    if (event.shiftKey) app.camera.pan(-dx * 0.4, -dy * 0.4);
    else app.camera.orbit(dx, dy);
    app.moved();
  };
  const zoom = (factor) => () => { app.camera.zoom(factor); app.moved(); };
  return {
    ArrowLeft: ["← → ↑ ↓", "turn; with Shift move", turn(0.12, 0)],
    ArrowRight: ["", "", turn(-0.12, 0)],
    ArrowUp: ["", "", turn(0, 0.09)],
    ArrowDown: ["", "", turn(0, -0.09)],
    "+": ["+ −", "nearer, farther", zoom(0.85)],
    "=": ["", "", zoom(0.85)],
    "-": ["", "", zoom(1 / 0.85)],
    1: [`1 … ${Object.keys(app.modes).length}`, "colours", null],
    b: ["B", "prediction beside annotation", () => app.setBeside(!app.beside)],
    f: ["F", "go to what is selected", () => app.focusSelected()],
    h: ["H", "hide the class of what is selected; again: show all", () => app.hideSelected()],
    m: ["M", "measure a distance", () => app.setMeasuring(!app.measuring)],
    l: ["L", "labels", () => app.toggle("labelled")],
    c: ["C", "cameras", () => app.toggle("cameras")],
    s: ["S", "surface: the mesh's triangles instead of points", () => app.setSurface(!app.surface)],
    t: ["T", "from above", () => app.fly({ elevation: STEEPEST, azimuth: -Math.PI / 2 })],
    r: ["R", "the whole scan", () => app.fly(app.home())],
    Escape: ["Esc", "leave, deselect", () => app.escape()],
    "?": ["?", "this help", () => app.cards.help()],
  };
}

function bindKeys(app, keys) {
  window.addEventListener("keydown", (event) => {
    const field = event.target instanceof Element && event.target.closest("input, select, textarea");
    if (field || event.ctrlKey || event.metaKey || event.altKey) return;
    if (app.cards.dialog.open && event.key !== "?") return; // which Escape closes by itself
    const mode = Object.keys(app.modes)[Number(event.key) - 1];
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const inList = event.target instanceof Element && event.target.closest("#panel") && key.startsWith("Arrow");
    if (inList) return;
    if (mode) app.setMode(mode);
    else if (keys[key] && keys[key][2]) keys[key][2](event);
    else return;
    event.preventDefault();
  });
}

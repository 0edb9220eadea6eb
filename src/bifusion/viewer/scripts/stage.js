// Where things are: the stage, its panes, and the way from the scene to them and back.

const MOST_PIXELS = 4.2e6;

/** What `App` stands on: it has a camera, a renderer, a drawing, and the camera as last drawn. */
class Stage {
  constructor(scan) {
    const byId = (id) => document.getElementById(id);
    Object.assign(this, { scan, stage: byId("stage"), canvas: byId("points"), beside: false, source: null, surface: false });
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    if (!width || !height) return;
    const ratio = Math.min(window.devicePixelRatio || 1, Math.sqrt(MOST_PIXELS / (width * height)));
    Object.assign(this, { width, height, ratio });
    const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
    this.renderer.resize(...pixels);
    [this.drawing.canvas.width, this.drawing.canvas.height] = pixels;
    this.seen = [];
    this.redraw();
  }

  /** One pane, or prediction and annotation side by side; `rect` in the stage, `pixels` from below. */
  get panes() {
    const sources = this.beside ? Object.values(this.scan.sources) : [this.source], share = this.width / sources.length;
    return sources.map((source, k) => {
      const edges = [k * share, (k + 1) * share].map((x) => Math.round(x * this.ratio));
      return { source, rect: [k * share, 0, share, this.height], pixels: [edges[0], 0, edges[1] - edges[0], this.canvas.height] };
    });
  }

  get aspect() { return this.width / (this.beside ? 2 : 1) / this.height; }

  inStage(clientX, clientY) {
    const box = this.canvas.getBoundingClientRect();
    return [clientX - box.left, clientY - box.top];
  }

  /** From the middle of its pane, in heights, x right and y down. */
  fromMiddle(at) {
    const [x, y, width, height] = this.paneAt(at).rect;
    return [(at[0] - x - width / 2) / height, (at[1] - y - height / 2) / height];
  }

  paneAt([x]) { return this.panes.find((pane) => x < pane.rect[0] + pane.rect[2]) || this.panes[0]; }

  /** Where a point of the scene is in the stage; null behind the camera. */
  project(point, pane) {
    const [x, y, z, w] = clipped(this.drawnCamera.viewProjection, point);
    if (w <= 1e-3 || z < -w) return null;
    const [left, top, width, height] = pane.rect;
    return [left + ((x / w + 1) / 2) * width, top + ((1 - y / w) / 2) * height];
  }

  /** A browser may take the graphics processor away, as when a laptop wakes, and give it back empty. */
  surviveLoss() {
    const status = document.getElementById("status");
    this.canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault(); // else it never comes back
      this.lost = true;
      status.textContent = "The browser took the graphics processor away; the picture comes back with it.";
      status.hidden = false;
    });
    this.canvas.addEventListener("webglcontextrestored", () => {
      const { faces } = this.renderer;
      this.renderer = new Renderer(this.canvas, this.scan);
      if (faces) this.renderer.takeFaces(faces.corners);
      Object.assign(this, { lost: false, asleep: true });
      status.hidden = true;
      this.resize();
      this.recolor();
    });
  }

  /** Triangles instead of points, or points again. */
  async setSurface(on) {
    if (!this.scan.faces) return;
    this.surface = on;
    this.tellTools();
    if (on && !this.renderer.faces) {
      this.unpacking = this.unpacking || loadFaces(this.scan);
      const corners = await this.unpacking;
      if (!this.renderer.faces) this.renderer.takeFaces(corners);
    }
    this.redraw();
  }

  get facesShown() { return Boolean(this.surface && this.renderer.faces); }

  /** Where the triangle that tells `point` lies under a pixel of the canvas, counted from below. */
  onSurface(point, [x, y], pane) {
    if (!this.facesShown) return null;
    const [left, low, width, height] = pane.pixels, { eye, viewProjection } = this.drawnCamera;
    const way = wayTo([(2 * (x - left)) / width - 1, (2 * (y - low)) / height - 1], viewProjection);
    return met(this.scan, this.renderer.faces.corners, point, eye, way);
  }

  /** What the shown picture has at a place, within two pixels: { point, object, label, position }. */
  pick(at) {
    const reach = Math.round(2 * this.ratio), side = 2 * reach + 1;
    const x = Math.floor(at[0] * this.ratio), y = this.canvas.height - 1 - Math.floor(at[1] * this.ratio);
    const points = this.renderer.pointsIn(x - reach, y - reach, side, side), pane = this.paneAt(at);
    const order = [...points.keys()].filter((k) => points[k] >= 0);
    const off = (k) => Math.hypot((k % side) - reach, Math.floor(k / side) - reach);
    if (!order.length) return null;
    const nearest = order.reduce((best, k) => (off(k) < off(best) ? k : best)), point = points[nearest], { source } = pane;
    const pixel = [x - reach + (nearest % side) + 0.5, y - reach + Math.floor(nearest / side) + 0.5];
    return {
      point, position: this.onSurface(point, pixel, pane) || pointAt(this.scan, point), source: source && source.name,
      object: source ? source.objectOf[point] : 0, label: source ? source.classOf[point] : 0,
    };
  }
}

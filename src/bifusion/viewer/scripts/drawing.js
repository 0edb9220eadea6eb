// Lines over the points: camera frustums with what they saw, the measured distance, up, and a scale.

const FRUSTUM_SHARE = 0.035; // of the scan's diagonal

/** Corners of a view's frustum in the scene, its apex first. */
function frustumOf(view, depth) {
  const m = view.cam2world, [w, h] = view.size, K = view.K;
  const corners = [[-0.5, -0.5], [w - 0.5, -0.5], [w - 0.5, h - 0.5], [-0.5, h - 0.5]].map(([x, y]) =>
    [((x - K[0][2]) / K[0][0]) * depth, ((y - K[1][2]) / K[1][1]) * depth, depth]);
  const place = (p) => [0, 1, 2].map((r) => m[r][0] * p[0] + m[r][1] * p[1] + m[r][2] * p[2] + m[r][3]);
  return [[0, 0, 0], ...corners].map(place);
}

class Drawing {
  constructor(canvas, app) {
    Object.assign(this, { canvas, app, context: canvas.getContext("2d"), apexes: [] });
    const depth = clamped(FRUSTUM_SHARE * app.camera.diagonal, 0.12, 0.6);
    this.frustums = app.scan.views.map((view) => frustumOf(view, depth));
    this.pictures = app.scan.views.map((view) => {
      const image = new Image();
      image.src = view.thumbnail;
      return image;
    });
  }

  draw(panes) {
    const { context, app, canvas } = this, ratio = app.ratio;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.scale(ratio, ratio);
    context.lineJoin = context.lineCap = "round";
    this.apexes = [];
    for (const pane of panes) {
      context.save();
      context.beginPath();
      context.rect(...pane.rect);
      context.clip();
      if (app.cameras) this.frustums.forEach((corners, k) => this.frustum(pane, corners, k));
      this.measured(pane);
      context.restore();
    }
    if (panes.length > 1) this.stroke([[panes[1].rect[0], 0], [panes[1].rect[0], app.height]], app.looks.line, 1);
    this.up();
    this.scale(panes[0]);
  }

  stroke(points, color, width) {
    const { context } = this;
    context.beginPath();
    points.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.strokeStyle = color;
    context.lineWidth = width;
    context.stroke();
  }

  frustum(pane, corners, k) {
    const { app } = this, at = corners.map((corner) => app.project(corner, pane));
    if (at.some((point) => !point)) return;
    const active = app.viewShown === k, color = app.scan.views[k].warning ? app.looks.warn : app.looks.accent;
    if (active) this.picture(this.pictures[k], at);
    this.context.globalAlpha = active ? 1 : 0.75;
    const [apex, a, b, c, d] = at, width = active ? 2.2 : 1.3;
    this.stroke([a, b, c, d, a], color, width);
    for (const corner of [a, b, c, d]) this.stroke([apex, corner], color, width);
    this.context.globalAlpha = 1;
    this.apexes.push([apex, mixed(a, c, 0.5), k]);
  }

  /** The thumbnail in the frustum's far side; of its perspective the part that is affine. */
  picture(image, [, a, b, , d]) {
    if (!image.complete || !image.naturalWidth) return;
    const { context } = this, [w, h] = [image.naturalWidth, image.naturalHeight];
    context.save();
    context.transform((b[0] - a[0]) / w, (b[1] - a[1]) / w, (d[0] - a[0]) / h, (d[1] - a[1]) / h, a[0], a[1]);
    context.drawImage(image, 0, 0);
    context.restore();
  }

  /** The view whose camera is near a place of the stage; −1: none. */
  viewAt([x, y]) {
    const near = this.apexes.map(([apex, middle, k]) =>
      [Math.min(Math.hypot(apex[0] - x, apex[1] - y), Math.hypot(middle[0] - x, middle[1] - y)), k]);
    const [distance, k] = near.reduce((best, one) => (one[0] < best[0] ? one : best), [Infinity, -1]);
    return distance < 12 ? k : -1;
  }

  measured(pane) {
    const { app, context } = this, ends = app.measure.map((p) => app.project(p, pane)).filter(Boolean);
    if (ends.length === 2) this.stroke(ends, "#fff", 4.5);
    if (ends.length === 2) this.stroke(ends, app.looks.measure, 2.5);
    for (const [x, y] of ends) {
      context.beginPath();
      context.arc(x, y, 5, 0, 2 * Math.PI);
      context.fillStyle = app.looks.measure;
      context.fill();
      context.lineWidth = 2;
      context.strokeStyle = "#fff";
      context.stroke();
    }
    if (ends.length === 2) this.tag(distanceText(app.measuredDistance()), mixed(ends[0], ends[1], 0.5));
  }

  tag(text, [x, y]) {
    const { context, app } = this;
    context.font = `600 13px ${app.looks.font}`;
    const width = context.measureText(text).width + 16;
    context.fillStyle = app.looks.measure;
    context.beginPath();
    context.roundRect(x - width / 2, y - 12, width, 24, 12);
    context.fill();
    context.fillStyle = "#fff";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(text, x, y + 0.5);
  }

  /** The scene's axes as the camera sees them, z with an arrow. */
  up() {
    const { app, context } = this, { right, up } = app.camera, from = [40, app.height - 78], length = 30;
    const axes = [[[1, 0, 0], "x", app.looks.soft], [[0, 1, 0], "y", app.looks.soft], [[0, 0, 1], "up", app.looks.ink]];
    context.font = `11px ${app.looks.font}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const [axis, name, color] of axes) {
      const way = [dot(axis, right), -dot(axis, up)], share = Math.hypot(...way);
      const to = [from[0] + way[0] * length, from[1] + way[1] * length];
      this.stroke([from, to], color, name === "up" ? 2.4 : 1.2);
      context.fillStyle = color;
      if (share < 0.25) continue;
      const [x, y] = [way[0] / share, way[1] / share];
      if (name === "up") {
        this.stroke([[to[0] - 6 * x - 4 * y, to[1] - 6 * y + 4 * x], to, [to[0] - 6 * x + 4 * y, to[1] - 6 * y - 4 * x]], color, 2.4);
      }
      context.fillText(name, to[0] + x * 10, to[1] + y * 10);
    }
  }

  /** A round length at the distance of the middle of the picture. */
  scale(pane) {
    const { app, context } = this, perMetre = pane.rect[3] / (2 * app.camera.distance * Math.tan(app.camera.fov / 2));
    const wanted = 110 / perMetre, power = 10 ** Math.floor(Math.log10(wanted));
    const length = [5, 2, 1].map((n) => n * power).find((n) => n <= wanted) || power;
    const [x, y, width] = [22, app.height - 24, length * perMetre];
    this.stroke([[x, y - 5], [x, y], [x + width, y], [x + width, y - 5]], app.looks.ink, 1.6);
    context.font = `12px ${app.looks.font}`;
    context.fillStyle = app.looks.ink;
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    context.fillText(distanceText(length), x + 5, y - 6);
  }
}

/** Metres in words; centimetres below one. */
function distanceText(metres) {
  if (metres >= 10) return `${Number(metres.toFixed(1))} m`;
  if (metres >= 1) return `${Number(metres.toFixed(2))} m`;
  return metres >= 0.1 ? `${Number((100 * metres).toFixed(0))} cm` : `${Number((100 * metres).toFixed(1))} cm`;
}

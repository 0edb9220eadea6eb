// Names on what can be seen. Of a full picture, each object's visible pixels are counted; its name stands
// above the middle of them, moves with that point, and gives way where a larger object's name is.

const LEAST_PIXELS = 90;
const MOST_LABELS = 40;
const CLEARANCE = 4;

/** What of each object a picture shows: { object, point, pixels }, the largest first. */
function visibleObjects(points, width, source, ratio) {
  const least = LEAST_PIXELS * ratio * ratio, sums = new Map();
  for (let i = 0; i < points.length; i++) {
    const object = points[i] < 0 ? 0 : source.objectOf[points[i]];
    if (!object) continue;
    let sum = sums.get(object);
    if (!sum) sums.set(object, (sum = { object, pixels: 0, x: 0, y: 0, point: -1, off: Infinity }));
    sum.pixels += 1;
    sum.x += i % width;
    sum.y += (i / width) | 0;
  }
  const seen = [...sums.values()].filter((sum) => sum.pixels >= least);
  const wanted = new Map(seen.map((sum) => [sum.object, [sum, sum.x / sum.pixels, sum.y / sum.pixels]]));
  for (let i = 0; i < points.length; i++) {
    const found = points[i] < 0 ? undefined : wanted.get(source.objectOf[points[i]]);
    if (!found) continue;
    const off = Math.abs((i % width) - found[1]) + Math.abs(((i / width) | 0) - found[2]);
    if (off < found[0].off) { found[0].off = off; found[0].point = points[i]; }
  }
  return seen.sort((a, b) => b.pixels - a.pixels);
}

class Labels {
  constructor(element, app) {
    Object.assign(this, { element, app, pool: [], sizes: new Map() });
  }

  /** Puts names where they fit; `seen` has one list of `visibleObjects` a pane. */
  place(panes, seen, selected) {
    const boxes = [];
    let used = 0;
    panes.forEach((pane, k) => {
      const own = (one) => selected && selected.source === pane.source.name && selected.object === one.object;
      const order = pane.source ? [...(seen[k] || [])].sort((a, b) => own(b) - own(a)).slice(0, MOST_LABELS) : [];
      for (const one of order) {
        const object = pane.source.objects[one.object - 1], label = object.label + 1;
        if (this.app.hidden[label]) continue;
        const text = this.app.className(label), at = this.app.project(pointAt(this.app.scan, one.point), pane);
        const size = this.sizeOf(text), box = at && this.free(at, size, pane, boxes);
        if (!box) continue;
        boxes.push(box);
        this.show(used++, text, box, this.app.mode === "instance" ? object.color : this.app.classColor(label), own(one));
      }
    });
    for (let k = used; k < this.pool.length; k++) this.pool[k].hidden = true;
  }

  /** A box for a name at a point, or nothing where all its places are taken. */
  free(at, [width, height], pane, boxes) {
    const [x, y, w, h] = pane.rect;
    for (const lift of [height + 6, height / 2, 1.9 * height + 6, -8]) {
      const box = [at[0] - width / 2, at[1] - lift, width, height];
      const inside = box[0] > x + 2 && box[1] > y + 2 && box[0] + width < x + w - 2 && box[1] + height < y + h - 2;
      const meets = (other) =>
        box[0] < other[0] + other[2] + CLEARANCE && other[0] < box[0] + width + CLEARANCE &&
        box[1] < other[1] + other[3] + CLEARANCE && other[1] < box[1] + height + CLEARANCE;
      if (inside && !boxes.some(meets)) return box;
    }
    return null;
  }

  sizeOf(text) {
    if (!this.sizes.has(text)) {
      const probe = this.entry(this.pool.length);
      probe.lastChild.textContent = text;
      probe.hidden = false;
      this.sizes.set(text, [Math.ceil(probe.offsetWidth), Math.ceil(probe.offsetHeight)]);
      probe.hidden = true;
    }
    return this.sizes.get(text);
  }

  entry(k) {
    if (!this.pool[k]) {
      const entry = element("div", "label", [element("i"), element("span")]);
      this.element.append(entry);
      this.pool[k] = entry;
    }
    return this.pool[k];
  }

  show(k, text, box, color, selected) {
    const entry = this.entry(k);
    entry.hidden = false;
    entry.lastChild.textContent = text;
    entry.firstChild.style.background = cssColor(color);
    entry.classList.toggle("selected", Boolean(selected));
    entry.style.transform = `translate(${Math.round(box[0])}px, ${Math.round(box[1])}px)`;
  }

  clear() { for (const entry of this.pool) entry.hidden = true; }
}

// A camera that orbits a target, z up; it flies where it is sent.

const FIELD_OF_VIEW = (45 * Math.PI) / 180;
const STEEPEST = (89.5 * Math.PI) / 180;
const NEAREST_M = 0.15;
const FLIGHT_MS = 650;

class OrbitCamera {
  /** `low`, `high`: the box of what is shown, metres. */
  constructor(low, high) {
    this.low = low;
    this.high = high;
    this.diagonal = norm(subtract(high, low));
    this.flight = null;
    Object.assign(this, this.home(1.6));
  }

  /** Where one sees all of it, up to a height above its floor, from above a corner. */
  home(aspect, height = Infinity) {
    const top = Math.min(this.high[2], this.low[2] + height), high = [this.high[0], this.high[1], top];
    const target = mixed(this.low, high, 0.5);
    const goal = { target, azimuth: -2.2, elevation: 0.82, fov: FIELD_OF_VIEW, distance: NEAREST_M };
    const { right, up, forward } = Object.assign(Object.create(OrbitCamera.prototype), goal);
    const tall = 0.92 * Math.tan(FIELD_OF_VIEW / 2), wide = tall * aspect;
    for (let corner = 0; corner < 8; corner++) {
      if (corner === 4) continue; // the upper one nearest to the viewer: its walls are seen through
      const way = subtract([0, 1, 2].map((a) => (corner & (1 << a) ? high[a] : this.low[a])), target);
      const needed = Math.max(Math.abs(dot(way, right)) / wide, Math.abs(dot(way, up)) / tall) - dot(way, forward);
      goal.distance = Math.max(goal.distance, needed);
    }
    return goal;
  }

  get eye() { return subtract(this.target, scaled(this.forward, this.distance)); }

  get forward() {
    const flat = Math.cos(this.elevation);
    return [-flat * Math.cos(this.azimuth), -flat * Math.sin(this.azimuth), -Math.sin(this.elevation)];
  }

  get right() { return [-Math.sin(this.azimuth), Math.cos(this.azimuth), 0]; }

  get up() { return cross(this.right, this.forward); }

  matrices(aspect) {
    const eye = this.eye, middle = mixed(this.low, this.high, 0.5);
    const reach = norm(subtract(eye, middle)) + this.diagonal / 2;
    const near = Math.max(0.02, Math.min(0.05, this.distance / 10), reach / 2000);
    const view = viewing(eye, this.right, this.up, this.forward);
    const projection = perspective(this.fov, aspect, near, reach * 1.05);
    return { eye, near, far: reach * 1.05, viewProjection: product(projection, view) };
  }

  orbit(dx, dy) {
    this.azimuth -= dx;
    this.elevation = clamped(this.elevation + dy, -STEEPEST, STEEPEST);
    this.flight = null;
  }

  /** Moves along the picture by (dx, dy) of its height, at the distance of the target. */
  pan(dx, dy) {
    const height = 2 * this.distance * Math.tan(this.fov / 2);
    this.target = add(this.target, add(scaled(this.right, -dx * height), scaled(this.up, dy * height)));
    this.flight = null;
  }

  /** Nearer for a factor below 1; `towards` in heights of the picture from its middle stays in place. */
  zoom(factor, towards = [0, 0]) {
    const before = this.distance;
    this.distance = clamped(before * factor, NEAREST_M, 8 * this.diagonal + 1);
    const height = 2 * (before - this.distance) * Math.tan(this.fov / 2);
    this.target = add(this.target, add(scaled(this.right, towards[0] * height), scaled(this.up, -towards[1] * height)));
    this.flight = null;
  }

  flyTo(goal, now) {
    const from = { target: this.target, azimuth: this.azimuth, elevation: this.elevation, distance: this.distance, fov: this.fov };
    const to = { ...from, ...goal };
    const turn = (to.azimuth - from.azimuth) % (2 * Math.PI);
    to.azimuth = from.azimuth + (turn > Math.PI ? turn - 2 * Math.PI : turn < -Math.PI ? turn + 2 * Math.PI : turn);
    this.flight = { from, to, start: now };
  }

  /** Goes on flying; whether the camera moved. */
  advance(now) {
    if (!this.flight) return false;
    const { from, to, start } = this.flight, t = clamped((now - start) / FLIGHT_MS, 0, 1);
    const eased = t * t * (3 - 2 * t);
    this.target = mixed(from.target, to.target, eased);
    for (const key of ["azimuth", "elevation", "distance", "fov"]) this[key] = from[key] + (to[key] - from[key]) * eased;
    if (t === 1) this.flight = null;
    return true;
  }

  /** What shows a box of these corners, seen from where one is. */
  around(low, high) {
    const radius = Math.max(0.25, norm(subtract(high, low)) / 2);
    return {
      target: mixed(low, high, 0.5), fov: FIELD_OF_VIEW,
      distance: (1.9 * radius) / Math.tan(FIELD_OF_VIEW / 2),
      elevation: Math.max(this.elevation, 0.35),
    };
  }

  /** The place of a view's camera, its picture filling a canvas of that aspect. */
  through(view, aspect) {
    const m = view.cam2world, eye = [m[0][3], m[1][3], m[2][3]], forward = unit([m[0][2], m[1][2], m[2][2]]);
    const tall = view.size[1] / 2 / view.K[1][1], wide = view.size[0] / 2 / view.K[0][0] / aspect;
    const distance = 2;
    return {
      distance, target: add(eye, scaled(forward, distance)),
      azimuth: Math.atan2(-forward[1], -forward[0]),
      elevation: clamped(-Math.asin(clamped(forward[2], -1, 1)), -STEEPEST, STEEPEST),
      fov: 2 * Math.atan(Math.max(tall, wide)),
    };
  }
}

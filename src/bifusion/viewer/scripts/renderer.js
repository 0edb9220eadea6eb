// Draws the points, or the triangles between them: few points while things move, everything, in portions,
// when they rest.

const AIM_MS = 60;
const FEWEST = 30000;
const SLOW_MS = 110;     // a first picture of the fewest points that takes longer is drawn coarsely from then on
const COARSE = 2;        // pixels of the canvas to one of a coarse picture, along each side
const LARGEST_DISC = 44; // pixels across
const POINTS_A_CELL = 4;
const LATEST_MS = 3000;
const FIRST_BUDGET = 60000;
const FIRST_FACES = 20000;
const FEWEST_FACES = 6000;

function compiled(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program) || "shader");
  const places = {};
  for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i++) {
    const { name } = gl.getActiveUniform(program, i);
    places[name] = gl.getUniformLocation(program, name);
  }
  return { program, places };
}

class Renderer {
  constructor(canvas, scan) {
    const options = { antialias: false, depth: false, alpha: false, powerPreference: "high-performance" };
    const gl = canvas.getContext("webgl2", options);
    if (!gl) throw new Error("this browser offers no WebGL 2");
    Object.assign(this, { canvas, gl, scan, dirty: true, drawn: 0, pending: null, slow: false });
    this.points = { ...compiled(gl, POINT_VERTEX, POINT_FRAGMENT), count: scan.points, budget: FIRST_BUDGET, fewest: FEWEST };
    this.faces = null; // until they are asked for
    this.screen = compiled(gl, SCREEN_VERTEX, SCREEN_FRAGMENT);
    this.positions = this.buffer(scan.position, gl.STATIC_DRAW);
    this.layers = [0, 1].map(() => this.layer());
    this.empty = gl.createVertexArray();
    this.targets = [];
    this.spacing = typicalSpacing(scan);
  }

  buffer(content, use) {
    const { gl } = this, buffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, content, use);
    return buffer;
  }

  /** Colours of one pane, and the vertices they go with. */
  layer() {
    const { gl } = this, vertices = gl.createVertexArray();
    gl.bindVertexArray(vertices);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.positions);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 3, gl.UNSIGNED_SHORT, true, 6, 0);
    const colors = this.buffer(4 * this.scan.points, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(1);
    gl.vertexAttribPointer(1, 4, gl.UNSIGNED_BYTE, true, 4, 0);
    return { vertices, colors };
  }

  /** (3 F) uint32 corners of triangles, which can be drawn from now on instead of the points. */
  takeFaces(corners) {
    const { gl } = this, program = compiled(gl, FACE_VERTEX, FACE_FRAGMENT), buffer = gl.createBuffer();
    this.faces = { ...program, corners, count: corners.length / 3, budget: FIRST_FACES, fewest: FEWEST_FACES };
    for (const { vertices } of this.layers) {
      gl.bindVertexArray(vertices);
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffer);
    }
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, corners, gl.STATIC_DRAW);
  }

  /** (4 N) uint8 of a pane: red, green, blue; 0 hidden, 128 shown, 255 marked. */
  setColors(pane, colors) {
    const { gl } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.layers[pane].colors);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, colors);
    this.dirty = true;
  }

  resize(width, height) {
    const { gl, canvas } = this;
    if (canvas.width === width && canvas.height === height && this.targets.length) return;
    canvas.width = width;
    canvas.height = height;
    for (const target of this.targets) {
      gl.deleteFramebuffer(target.frame);
      gl.deleteFramebuffer(target.lit);
      target.textures.forEach((texture) => gl.deleteTexture(texture));
    }
    this.targets = [1, 1].map((scale) => this.target(width, height, scale));
    this.coarse = this.target(Math.ceil(width / COARSE), Math.ceil(height / COARSE), COARSE);
    this.targets.push(this.coarse);
    this.shown = this.targets[0];
    this.dirty = true;
  }

  /** A picture to draw to, one of its pixels to `scale` of the canvas: colours, points, depth; its light. */
  target(width, height, scale) {
    const { gl } = this, frame = gl.createFramebuffer();
    const attached = (kind, place) => {
      const texture = gl.createTexture();
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.texStorage2D(gl.TEXTURE_2D, 1, kind, width, height);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, place, gl.TEXTURE_2D, texture, 0);
      return texture;
    };
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    const textures = [
      attached(gl.RGBA8, gl.COLOR_ATTACHMENT0), attached(gl.R32UI, gl.COLOR_ATTACHMENT1),
      attached(gl.DEPTH_COMPONENT24, gl.DEPTH_ATTACHMENT),
    ];
    gl.drawBuffers([gl.COLOR_ATTACHMENT0, gl.COLOR_ATTACHMENT1]);
    const lit = scale > 1 ? gl.createFramebuffer() : null; // full-size ones are lit on the canvas
    if (lit) {
      gl.bindFramebuffer(gl.FRAMEBUFFER, lit);
      textures.push(attached(gl.RGBA8, gl.COLOR_ATTACHMENT0));
    }
    return { frame, textures, lit, width, height, scale };
  }

  /** The full-size picture that is not shown. */
  get spare() { return this.targets.find((target) => target !== this.shown && target !== this.coarse); }

  /**
   * One turn of the loop: a first picture where something changed, else the next portion of the full one.
   * `scene` says what is drawn: panes, camera, cuts, looks, faces or points. Returns "preview", "portion",
   * "full" where a picture became complete, "waiting" while the graphics processor is busy, "idle".
   */
  step(scene, now) {
    if (this.pending && !this.finished(now)) return "waiting";
    const wanted = scene.faces ? this.faces : this.points;
    if (this.dirty) {
      this.dirty = false;
      const whole = wanted.count <= wanted.budget, kind = whole ? wanted : this.points; // of few faces holes would be seen
      const count = Math.min(kind.count, kind.budget), target = this.slow ? this.coarse : this.spare;
      const full = whole && target !== this.coarse;
      this.begin(scene, target, kind, count);
      this.draw(scene, target, kind, 0, count, now);
      this.show(scene, target);
      this.drawn = full ? wanted.count : 0;
      return full ? "full" : "preview";
    }
    if (this.drawn >= wanted.count) return "idle";
    const target = this.spare;
    if (this.drawn === 0) this.begin(scene, target, wanted, wanted.count);
    const count = Math.min(wanted.count - this.drawn, wanted.budget);
    this.draw(scene, target, wanted, this.drawn, count, now);
    this.drawn += count;
    if (this.drawn < wanted.count) return "portion";
    this.show(scene, target);
    return "full";
  }

  /** Whether the processor is done with the last turn; how long it took says how much the next may hold. */
  finished(now) {
    const { gl, pending } = this, { kind } = pending, took = Math.max(now - pending.start, 4);
    if (gl.getSyncParameter(pending.fence, gl.SYNC_STATUS) !== gl.SIGNALED && took < LATEST_MS) return false;
    gl.deleteSync(pending.fence);
    const few = kind === this.points && pending.count <= FEWEST;
    if (pending.target.scale === 1 && pending.lit && few && took > SLOW_MS) this.slow = true;
    const wanted = (pending.count * AIM_MS) / took;
    kind.budget = Math.round(clamped(wanted, Math.max(kind.fewest, kind.budget / 3), kind.budget * 2));
    this.pending = null;
    return true;
  }

  /** Clears a picture; `count` points or faces are to fill it. */
  begin(scene, target, kind, count) {
    const { gl } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
    gl.disable(gl.SCISSOR_TEST);
    gl.clearBufferfv(gl.COLOR, 0, [0, 0, 0, 0]);
    gl.clearBufferuiv(gl.COLOR, 1, [0, 0, 0, 0]);
    gl.clearBufferfv(gl.DEPTH, 0, [1]);
    this.metres = this.spacing * Math.sqrt(kind.count / count) * scene.pointScale;
  }

  draw(scene, target, kind, first, count, now) {
    const { gl } = this, { program, places } = kind;
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
    gl.enable(gl.DEPTH_TEST);
    gl.useProgram(program);
    gl.uniform3fv(places.low, this.scan.low);
    gl.uniform3fv(places.size, this.scan.size);
    gl.uniform4fv(places.inner, scene.inner);
    gl.uniform2fv(places.heights, scene.heights);
    gl.uniformMatrix4fv(places.viewProjection, false, scene.camera.viewProjection);
    if (kind === this.faces) {
      gl.uniform3fv(places.eye, scene.camera.eye);
      gl.uniform1f(places.blending, scene.blended ? 1 : 0);
    }
    scene.panes.forEach((pane, k) => {
      const [x, y, width, height] = pane.pixels.map((length) => Math.floor(length / target.scale)), focal = height / 2 / Math.tan(scene.fov / 2);
      gl.viewport(x, y, width, height);
      gl.enable(gl.SCISSOR_TEST);
      gl.scissor(x, y, width, height);
      gl.bindVertexArray(this.layers[k].vertices);
      if (kind === this.faces) {
        gl.drawElements(gl.TRIANGLES, 3 * count, gl.UNSIGNED_INT, 12 * first);
        return;
      }
      gl.uniform3f(places.pointSize, this.metres * focal, (1.5 * scene.ratio) / target.scale, (LARGEST_DISC * scene.ratio) / target.scale);
      gl.drawArrays(gl.POINTS, first, count);
    });
    gl.disable(gl.SCISSOR_TEST);
    this.fence({ start: now, kind, count, target, lit: false });
  }

  fence(pending) {
    const { gl } = this;
    if (this.pending) gl.deleteSync(this.pending.fence);
    this.pending = { ...pending, fence: gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0) };
    gl.flush();
  }

  /** Puts a finished picture on the canvas, lit. */
  show(scene, target) {
    const { gl, canvas } = this, coarse = target.scale > 1;
    gl.bindFramebuffer(gl.FRAMEBUFFER, coarse ? target.lit : null);
    gl.viewport(0, 0, target.width, target.height);
    this.light(scene, target);
    if (coarse) {
      gl.bindFramebuffer(gl.READ_FRAMEBUFFER, target.lit);
      gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, null);
      gl.blitFramebuffer(0, 0, target.width, target.height, 0, 0, canvas.width, canvas.height, gl.COLOR_BUFFER_BIT, gl.LINEAR);
    }
    this.shown = target;
    this.fence({ ...this.pending, lit: true });
  }

  light(scene, target) {
    const { gl } = this, { program, places } = this.screen, { near, far } = scene.camera;
    gl.disable(gl.DEPTH_TEST);
    gl.useProgram(program);
    [[gl.TEXTURE0, 0, places.colors], [gl.TEXTURE1, 2, places.depths]].forEach(([slot, texture, place], k) => {
      gl.activeTexture(slot);
      gl.bindTexture(gl.TEXTURE_2D, target.textures[texture]);
      gl.uniform1i(place, k);
    });
    gl.uniform2f(places.inverse, 1 / near, 1 / near - 1 / far);
    gl.uniform3f(places.light, 3.4, Math.max(0.75, (0.75 * scene.ratio) / target.scale), scene.marked ? 1 : 0);
    gl.uniform3fv(places.above, scene.looks.above);
    gl.uniform3fv(places.below, scene.looks.below);
    gl.uniform3fv(places.accent, scene.looks.accent);
    gl.uniform1f(places.height, target.height);
    gl.bindVertexArray(this.empty);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** Which points the shown picture has in a rectangle of the canvas's pixels from below; −1: none. */
  pointsIn(x, y, width, height) {
    const { gl, shown } = this, part = (length) => Math.floor(length / shown.scale);
    const [left, low] = [part(x), part(y)], [columns, rows] = [part(x + width - 1) - left + 1, part(y + height - 1) - low + 1];
    gl.bindFramebuffer(gl.FRAMEBUFFER, shown.frame);
    gl.readBuffer(gl.COLOR_ATTACHMENT1);
    const narrow = gl.getParameter(gl.IMPLEMENTATION_COLOR_READ_FORMAT) === gl.RED_INTEGER; // else always allowed:
    const [format, step] = narrow ? [gl.RED_INTEGER, 1] : [gl.RGBA_INTEGER, 4];
    const numbers = new Uint32Array(step * columns * rows), points = new Int32Array(width * height);
    gl.readPixels(left, low, columns, rows, format, gl.UNSIGNED_INT, numbers);
    for (let v = 0, i = 0; v < height; v++) {
      const row = (part(y + v) - low) * columns - left;
      for (let u = 0; u < width; u++, i++) points[i] = numbers[step * (row + part(x + u))] - 1;
    }
    return points;
  }
}

/** Metres between neighbouring points: from the surface that cells with a few points each make up. */
function typicalSpacing(scan) {
  const count = Math.min(scan.points, 40000);
  for (let cell = Math.max(...scan.size, 1e-3) / 64; ; cell *= 1.5) {
    const cells = new Set();
    for (let i = 0; i < count; i++) {
      const [x, y, z] = [0, 1, 2].map((k) => Math.floor(((scan.position[3 * i + k] / 65535) * scan.size[k]) / cell));
      cells.add(x + 70 * (y + 70 * z));
    }
    if (POINTS_A_CELL * cells.size <= count || cells.size < 64) return Math.sqrt((cells.size * cell * cell) / scan.points);
  }
}

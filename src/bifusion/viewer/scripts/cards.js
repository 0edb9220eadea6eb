// Small cards: what is selected, what is under the pointer, what to know, the keys.

class Cards {
  constructor(app, keys) {
    this.app = app;
    const byId = (id) => document.getElementById(id);
    Object.assign(this, { selected: byId("selected"), tip: byId("tip"), dialog: byId("help") });
    const { notes } = app.scan, list = byId("notes");
    byId("checks").hidden = !notes.length;
    byId("checks-title").textContent = notes.length === 1 ? "1 note" : `${notes.length} notes`;
    list.append(...notes.map((note) => element("li", "", note)));
    const told = Object.values(keys).filter(([shown]) => shown);
    byId("keys").append(...told.flatMap(([shown, what]) => [element("dt", "", shown), element("dd", "", what)]));
    byId("help-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
  }

  help() {
    if (this.dialog.open) this.dialog.close();
    else this.dialog.showModal();
  }

  showSelected(selected) {
    const { app } = this;
    this.selected.hidden = !selected;
    if (!selected) return;
    const source = app.scan.sources[selected.source], one = selected.object ? source.objects[selected.object - 1] : null;
    const swatch = element("i", "swatch");
    swatch.style.background = cssColor(app.classColor(selected.label));
    const close = element("button", "close", "×", { type: "button", title: "Deselect (Esc)" });
    close.addEventListener("click", () => app.select(null));
    const title = element("h2", "", [swatch, app.className(selected.label), close]);
    const facts = element("dl", "", this.facts(selected, source, one).flatMap(([what, value]) => [element("dt", "", what), element("dd", "", value)]));
    this.selected.replaceChildren(title, facts);
  }

  facts(selected, source, one) {
    const { app } = this, facts = [];
    if (one) {
      const size = subtract(one.high, one.low);
      facts.push(["Object", `#${one.id}`]);
      if (one.score !== null) facts.push(["Score", one.score.toFixed(3)]);
      facts.push(["Size", `${size.map((metres) => metres.toFixed(2)).join(" × ")} m`]);
    }
    const points = one ? one.points : source.pointsOfClass[selected.label];
    facts.push(["Points", points.toLocaleString("en")]);
    const other = Object.values(app.scan.sources).find((each) => each !== source);
    if (other) facts.push([other.name === "annotated" ? "Annotated as" : "Predicted as", this.othersWord(selected, other)]);
    return facts;
  }

  /** The commonest classes that the other source gives to what is selected. */
  othersWord(selected, other) {
    const { app } = this, counts = new Uint32Array(app.scan.classes.length + 1), isMarked = app.marks(selected);
    let all = 0;
    for (let i = 0; i < app.scan.points; i++) if (isMarked(i)) { counts[other.classOf[i]]++; all++; }
    const first = [...counts.keys()].filter((k) => counts[k]).sort((a, b) => counts[b] - counts[a]).slice(0, 2);
    return first.map((k) => `${app.className(k)} ${percent(counts[k] / all)}`).join(", ");
  }

  /** The picture of the view through whose camera one looks. */
  showThrough(view) {
    const figure = document.getElementById("through");
    figure.hidden = !view;
    if (!view) return;
    figure.firstElementChild.src = view.thumbnail;
    figure.lastElementChild.textContent = view.warning || `view ${view.name}`;
  }

  showTip(text, at) {
    this.tip.hidden = !text;
    if (!text) return;
    this.tip.textContent = text;
    const left = Math.min(at[0] + 14, this.app.width - this.tip.offsetWidth - 6);
    this.tip.style.transform = `translate(${left}px, ${Math.max(4, at[1] - 30)}px)`;
  }
}

// The words that were searched for when the page was made: the page itself holds no model.

const MOST_HITS = 12; // words that are offered at a time

class Search {
  constructor(app) {
    this.app = app;
    const byId = (id) => document.getElementById(id), { words } = app.scan;
    Object.assign(this, { query: byId("query"), hits: byId("hits"), nothing: byId("no-hits"), matches: byId("matches") });
    byId("search").hidden = !words.length;
    if (!words.length) return;
    byId("search-title").textContent = words.length === 1 ? "1 word to search for" : `${words.length} words to search for`;
    this.query.addEventListener("input", () => this.offer());
    this.query.addEventListener("keydown", (event) => {
      const [first] = this.hitsOf(this.query.value);
      if (event.key === "Enter" && first) app.setWord(first);
    });
    this.offer();
    this.tell(app.scan.word);
  }

  /** Words with all that is typed in them, those that begin with it first. */
  hitsOf(typed) {
    const parts = typed.toLowerCase().split(/\s+/).filter(Boolean), { words } = this.app.scan;
    const found = words.filter(({ name }) => parts.every((part) => name.toLowerCase().includes(part)));
    const begins = ({ name }) => name.toLowerCase().startsWith(parts[0] || "");
    return found.sort((a, b) => begins(b) - begins(a));
  }

  offer() {
    const found = this.hitsOf(this.query.value), { app } = this;
    const entries = found.slice(0, MOST_HITS).map((word) => [word.name, word.name, ""]);
    this.hits.replaceChildren();
    this.press = choice(this.hits, entries, (name) => app.setWord(app.scan.words.find((word) => word.name === name)));
    this.press(app.scan.word.name);
    const more = found.length - entries.length;
    this.nothing.hidden = found.length > 0 && !more;
    this.nothing.textContent = found.length ? `and ${more} more` : "Not among them: the page holds no model. `bifusion find` makes one with other words.";
  }

  /** The regions that fit the word best; a click goes there. */
  tell(word) {
    this.press(word.name);
    this.matches.replaceChildren(...word.matches.map((match) => element("li", "", this.matchRow(match))));
  }

  matchRow(match) {
    const { app } = this, source = app.scan.sources.predicted, size = subtract(match.high, match.low);
    const object = match.object === null ? 0 : source.objects.findIndex((one) => one.id === match.object) + 1;
    const name = object ? `#${match.object} ${app.className(source.objects[object - 1].label + 1)}` : "superpoint";
    const extent = `${size.map((metres) => metres.toFixed(1)).join(" × ")} m`;
    const parts = [element("span", "number", name), element("span", "extent", extent), element("span", "score", match.similarity.toFixed(3), { title: "cosine" })];
    const row = element("button", "object", parts, { type: "button", title: "Go there" });
    row.addEventListener("click", () => {
      if (object) app.select({ source: "predicted", object, label: source.objects[object - 1].label + 1 });
      app.fly(app.camera.around(match.low, match.high));
    });
    return row;
  }
}

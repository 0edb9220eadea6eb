// Unpacks the scan, shows it, and says so.

/** For tests, and for whoever wants to steer the page from its console. */
function publish(app) {
  window.bifusionView = {
    app, get frames() { return app.frames; },
    settled: () => new Promise((told) => { app.settled = [...(app.settled || []), told]; app.wake(); }),
    project: (point, pane = 0) => app.project(point, app.panes[pane]),
    pick: (x, y) => app.pick(app.inStage(x, y)),
    shownPoints: () => {
      const points = app.renderer.pointsIn(0, 0, app.canvas.width, app.canvas.height);
      return points.filter((point) => point >= 0);
    },
  };
}

async function start() {
  const status = document.getElementById("status");
  try {
    await new Promise((told) => setTimeout(told, 0)); // the page is seen before the points are unpacked
    const app = new App(await loadScan());
    publish(app);
    await window.bifusionView.settled();
    status.hidden = true;
    document.documentElement.dataset.ready = "yes";
  } catch (error) {
    status.textContent = `The scan cannot be shown: ${error.message}.`;
    status.className = "failed";
    throw error;
  }
}

start();

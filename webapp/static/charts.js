/* Curves of a run. Each <figure class="chart"> names its metrics; its section names where their numbers are
   (data-curves) and, while the run lives, which fragment tells that there are new ones (data-live).
   The page keeps its table of last values, so that it can be read without this script. */
(() => {
  "use strict";

  const GAP = 6; // px between a line's end and its label
  const ENDS_FONT = "650 12px system-ui, sans-serif";
  const probe = document.createElement("span");

  /** The colour of a metric as the canvas takes it: light-dark() and var() resolved by the browser. */
  function colour(name) {
    probe.hidden = true;
    probe.style.color = `var(${name}, var(--accent))`;
    if (!probe.isConnected) document.body.append(probe);
    return getComputedStyle(probe).color;
  }

  const LANGUAGE = `${document.documentElement.lang}-u-nu-latn`; // its separators, with the digits of the whole page

  const minus = (text) => text.replaceAll("-", "\u2212");

  /** 5.9e−3 with the separators of the page's language. */
  function scientific(value) {
    const options = { notation: "scientific", minimumFractionDigits: 1, maximumFractionDigits: 1 };
    return minus(value.toLocaleString(LANGUAGE, options)).replace("E", "e");
  }

  function formatNumber(value, unit) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (unit === "%") return minus(`${(100 * value).toLocaleString(LANGUAGE, { minimumFractionDigits: 1, maximumFractionDigits: 1 })} %`);
    if (size === 0) return "0";
    if (size < 1e-4) return scientific(value);
    let digits = 3;
    if (size >= 100) digits = 0;
    else if (size >= 10) digits = 1;
    else if (size >= 1) digits = 2;
    else if (size < 0.01) digits = 1 - Math.floor(Math.log10(size));
    return minus(value.toLocaleString(LANGUAGE, { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  }

  /** Columns for the chart: the steps of all its metrics, then one column of values each, null where one has none. */
  function columns(metrics, names, by) {
    const steps = new Set();
    for (const name of names) for (const [step] of metrics[name] || []) steps.add(step);
    const xs = [...steps].sort((a, b) => a - b);
    const place = new Map(xs.map((step, index) => [step, index]));
    const ys = names.map((name) => {
      const column = new Array(xs.length).fill(null);
      for (const [step, value] of metrics[name] || []) column[place.get(step)] = value;
      return column;
    });
    return by ? alongRoot(metrics[by] || [], xs, ys) : [xs, ...ys];
  }

  /** The same columns along the square root of another metric, whose values at these steps are ``points``. */
  function alongRoot(points, xs, ys) {
    const roots = new Map(points.map(([step, value]) => [step, Math.sqrt(Math.max(0, value))]));
    const rows = xs.map((step, index) => [roots.get(step), ...ys.map((column) => column[index])]);
    const known = rows.filter((row) => row[0] !== undefined).sort((a, b) => a[0] - b[0]);
    return [0, ...ys.map((_, index) => index + 1)].map((index) => known.map((row) => row[index]));
  }

  const ROUND = [0, 0.1, 0.5, 1, 2, 4, 6, 9, 12, 16, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000];

  /** Round values of the metric between two square roots, none too close to the one before. */
  function rootTicks(low, high) {
    const ticks = [];
    for (const root of ROUND.map(Math.sqrt)) {
      const gap = ticks.length ? root - ticks[ticks.length - 1] : Infinity;
      if (root >= low && root <= high && gap >= (high - low) / 9) ticks.push(root);
    }
    return ticks;
  }

  const LEAST_RANGE = { "nats/response": 0.02, "%": 0.02 }; // a first KL of -2e-5 is rounding and stands at 0

  /** What the upright axis spans: the values with some room, and never so little that ticks could not be told apart. */
  function rangeOf(low, high, unit) {
    if (low === null || low === undefined) return [0, 1];
    const size = Math.max(Math.abs(low), Math.abs(high));
    const least = Math.max(LEAST_RANGE[unit] || 0, size * 0.01);
    if (high - low < least) {
      const room = Math.max(least / 2, size * 0.1) || 0.5;
      const middle = (low + high) / 2;
      return [low >= 0 ? Math.max(0, middle - room) : middle - room, middle + room];
    }
    const room = (high - low) * 0.08;
    return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
  }

  const square = (root) => Math.round(100 * root * root) / 100;

  function lastIndex(column) {
    for (let index = column.length - 1; index >= 0; index -= 1) if (column[index] !== null) return index;
    return -1;
  }

  /** Write each line's last value at its end, and push labels apart that would cover each other. */
  function drawEnds(plot, chart) {
    const { ctx } = plot;
    const ratio = window.devicePixelRatio || 1;
    const height = 14 * ratio;
    const ends = [];
    plot.series.forEach((series, index) => {
      if (index === 0 || !series.show) return;
      const at = lastIndex(plot.data[index]);
      if (at < 0) return;
      const value = plot.data[index][at];
      const text = formatNumber(value, chart.unit) + (chart.names.length > 1 ? ` ${chart.labels[index - 1]}` : "");
      const x = plot.valToPos(plot.data[0][at], "x", true);
      const y = plot.valToPos(value, "y", true);
      ends.push({ x, y, labelY: y, text, colour: chart.colours[index - 1] });
    });
    ends.sort((a, b) => a.y - b.y);
    for (let index = 1; index < ends.length; index += 1) {
      ends[index].labelY = Math.max(ends[index].labelY, ends[index - 1].labelY + height);
    }
    ctx.save();
    ctx.font = `650 ${12 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "middle";
    ctx.textAlign = "left";
    for (const end of ends) {
      ctx.fillStyle = end.colour;
      ctx.beginPath();
      ctx.arc(end.x, end.y, 3 * ratio, 0, 2 * Math.PI);
      ctx.fill();
      ctx.fillText(end.text, end.x + (GAP + 2) * ratio, end.labelY);
    }
    ctx.restore();
  }

  /** Pixels beside the plot for what is written at the lines' ends, in the words of any language. */
  function roomForEnds(chart) {
    if (chart.names.length === 1) return 60;
    const ruler = document.createElement("canvas").getContext("2d");
    ruler.font = ENDS_FONT;
    const widest = Math.max(...chart.labels.map((label) => ruler.measureText(`${minus("-0.0000")} ${label}`).width));
    return Math.min(Math.ceil(widest) + GAP + 4, chart.box.clientWidth / 2);
  }

  /** Whole numbers only on the axis of steps. */
  const STEPS = [1, 2, 5].flatMap((digit) => [...Array(9).keys()].map((power) => digit * 10 ** power)).sort((a, b) => a - b);

  function build(chart) {
    const quiet = colour("--quiet");
    const line = colour("--line");
    chart.colours = chart.names.map((name) => colour(`--metric-${name.replaceAll("_", "-")}`));
    const axis = {
      stroke: quiet,
      font: "12px system-ui, sans-serif",
      labelFont: "12px system-ui, sans-serif",
      grid: { stroke: line, width: 1 },
      ticks: { show: false },
      labelSize: 18,
    };
    const options = {
      width: chart.box.clientWidth,
      height: chart.box.clientHeight,
      padding: [10, roomForEnds(chart), 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: {
        x: {
          time: false,
          range: (plot, low, high) => {
            const end = Math.max(high ?? 1, chart.total || 0);
            const start = Math.min(low ?? 0, end);
            return start === end ? [start - 1, end + 1] : [start, end];
          },
        },
        y: {
          range: (plot, low, high) => rangeOf(low, high, chart.unit),
        },
      },
      axes: [
        chart.by
          ? {
              ...axis,
              grid: { show: false },
              label: chart.words.root,
              splits: (plot, index, low, high) => rootTicks(low, high),
              values: (plot, splits) => splits.map((root) => String(square(root))),
              size: 26,
            }
          : { ...axis, grid: { show: false }, label: chart.stepName, incrs: STEPS, size: 26 },
        { ...axis, label: chart.axisLabel, size: 52, values: (plot, splits) => splits.map((value) => formatTick(value, splits, chart.unit)) },
      ],
      series: [
        {},
        ...chart.names.map((name, index) => ({
          label: chart.labels[index],
          stroke: chart.colours[index],
          width: 2,
          dash: name.endsWith("_law") ? [6, 4] : undefined, // fitted, not measured
          spanGaps: true,
          points: { show: (plot, at) => plot.data[at].filter((value) => value !== null).length === 1 },
        })),
      ],
      hooks: {
        draw: [(plot) => drawEnds(plot, chart)],
        setCursor: [(plot) => readOut(plot, chart)],
      },
    };
    chart.box.replaceChildren();
    chart.plot = new uPlot(options, chart.data, chart.box);
  }

  function formatTick(value, splits, unit) {
    const gap = splits.length > 1 ? Math.abs(splits[1] - splits[0]) : Math.abs(value);
    const scale = unit === "%" ? 100 : 1;
    if (gap * scale < 1e-4) return value === 0 ? "0" : scientific(value);
    let digits = 0; // as many as tell one tick from the next: 0.25 needs two
    while (digits < 6 && Math.abs(gap * scale * 10 ** digits - Math.round(gap * scale * 10 ** digits)) > 1e-6) digits += 1;
    return minus((value * scale).toLocaleString(LANGUAGE, { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  }

  function readOut(plot, chart) {
    if (!chart.readout) return;
    const at = plot.cursor.idx;
    if (at === null || at === undefined) {
      chart.readout.textContent = "";
      return;
    }
    const values = chart.names.map((name, index) => {
      const value = formatNumber(plot.data[index + 1][at], chart.unit);
      return chart.names.length > 1 ? `${chart.labels[index]} ${value}` : value;
    });
    chart.readout.textContent = `${placeOf(chart, plot.data[0][at])}: ${values.join(", ")}`;
  }

  /** A sentence of the page (see runs/_charts.html) with values in place of #name. */
  function say(sentence, values) {
    return sentence.replace(/#(\w+)/g, (whole, name) => values[name] ?? whole);
  }

  /** Where along the lower axis, in words. */
  function placeOf(chart, x) {
    return chart.by ? `KL ${formatNumber(x * x, "")}` : `${chart.stepName} ${x}`;
  }

  /** The curve in a sentence, for those who hear the page. */
  function describe(chart) {
    const sentences = chart.names.flatMap((name, index) => {
      const column = chart.data[index + 1];
      const first = column.find((value) => value !== null);
      const last = lastIndex(column);
      if (last < 0) return [];
      const ends = { first: formatNumber(first, chart.unit), last: formatNumber(column[last], chart.unit) };
      return [say(chart.words.range, { curve: chart.labels[index], ...ends })];
    });
    const steps = chart.data[0];
    if (!sentences.length) return say(chart.words.none, { title: chart.title });
    const [first, last] = [steps[0], steps[steps.length - 1]].map((step) => placeOf(chart, step));
    return say(chart.words.all, { title: chart.title, curves: sentences.join("; "), first, last });
  }

  function draw(chart) {
    const isEmpty = !chart.data[0].length;
    chart.figure.classList.toggle("is-empty", isEmpty);
    chart.box.setAttribute("aria-label", describe(chart));
    if (isEmpty || !chart.box.clientWidth) return; // folded away: drawn when unfolded
    if (chart.plot) chart.plot.setData(chart.data);
    else build(chart);
  }

  function readFigure(figure, section) {
    const names = figure.dataset.metrics.split(" ");
    return {
      figure,
      names,
      labels: figure.dataset.labels.split("|"),
      title: figure.dataset.title,
      unit: figure.dataset.unit,
      by: figure.dataset.by || "",
      axisLabel: figure.dataset.axis,
      stepName: section.dataset.step,
      words: section.dataset,
      total: 0,
      box: figure.querySelector(".plot"),
      readout: figure.querySelector(".readout"),
      data: [[], ...names.map(() => [])],
      plot: null,
    };
  }

  function follow(section) {
    const charts = [...section.querySelectorAll("figure.chart")].map((figure) => readFigure(figure, section));
    let shown = null;
    let isFetching = false;

    async function refresh(version) {
      if (isFetching || version === shown) return;
      isFetching = true;
      try {
        const answer = await fetch(section.dataset.curves, { cache: "no-cache", headers: { Accept: "application/json" } });
        if (!answer.ok) return; // the old curves stay; the next change of the fragment asks again
        const found = await answer.json();
        shown = version;
        for (const chart of charts) {
          chart.total = found.is_finished || chart.by ? 0 : found.total_steps || 0;
          chart.data = columns(found.metrics, chart.names, chart.by);
          draw(chart);
        }
        section.dataset.drawn = String(found.points);
      } catch (error) {
        console.warn("curves not refreshed", error);
      } finally {
        isFetching = false;
      }
    }

    const watcher = new ResizeObserver((entries) => {
      for (const entry of entries) {
        const chart = charts.find((one) => one.box === entry.target);
        if (chart.plot && chart.box.clientWidth) {
          chart.plot.setSize({ width: chart.box.clientWidth, height: chart.box.clientHeight });
        } else draw(chart);
      }
    });
    charts.forEach((chart) => watcher.observe(chart.box));

    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      for (const chart of charts) {
        if (chart.plot) chart.plot.destroy();
        chart.plot = null;
        draw(chart);
      }
    });

    const liveVersion = () => document.getElementById(section.dataset.live)?.dataset.version;
    refresh(liveVersion() ?? "once");
    if (section.dataset.live) {
      document.body.addEventListener("htmx:afterSettle", () => {
        const version = liveVersion();
        if (version !== undefined) refresh(version);
      });
    }
  }

  // A poll that brings nothing new leaves the page alone: what one has selected or focused stays so.
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    const { target, xhr } = event.detail;
    const version = target.dataset?.version;
    if (version && xhr.status === 200 && xhr.getResponseHeader("ETag")?.includes(`"${version}-`)) {
      event.detail.shouldSwap = false;
    }
  });

  document.querySelectorAll("[data-curves]").forEach(follow);
})();

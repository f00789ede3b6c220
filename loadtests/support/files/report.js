"use strict";
// Draws the charts of a report with Chart.js. The figures of each lie beside it as JSON.

const LOCALE = "en-US"; // thousands separators are commas, as in the tables
const DASHES = [[], [6, 4], [2, 3]]; // tell series apart when there are more than colours
const POINTS_SHOWN = 40; // a longer curve is drawn without a dot at each point
const LABEL_LENGTH = 24; // characters of a line beside a bar
const BAR_HEIGHT = 15, BAR_MARGIN = 110; // pixels: of a bar, and around all bars

Chart.defaults.locale = LOCALE;
Chart.defaults.animation = false;
Chart.defaults.maintainAspectRatio = false;
Object.assign(Chart.defaults.plugins.legend, { position: "bottom" });

function number(value) {
  const digits = Math.abs(value) >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 };
  return value.toLocaleString(LOCALE, digits);
}

function withUnit(value, unit) {
  return `${Array.isArray(value) ? value.map(number).join(" to ") : number(value)} ${unit}`;
}

function wrapped(text) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = `${lines.at(-1)} ${word}`.trim();
    line.length > LABEL_LENGTH && lines.at(-1) ? lines.push(word) : lines.splice(-1, 1, line);
  }
  return lines;
}

function barLabels(chart) {
  const [only, ...others] = Object.values(chart.series);
  return chart.labels.map((label, index) => [...wrapped(label), ...(others.length ? [] : [number(only[index])])]);
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(name).trim();
  return { text: value("--text"), faint: value("--faint"), level: value("--failed"), series: value("--series").split(" ") };
}

function axis(title) {
  return { beginAtZero: true, title: { display: title !== "", text: title }, ticks: { maxRotation: 0, autoSkipPadding: 12 } };
}

function lineChart(chart, palette) {
  const count = palette.series.length;
  const datasets = Object.entries(chart.series).map(([label, points], index) => ({
    label,
    data: points.map(([x, y]) => ({ x, y })),
    pointRadius: points.length > POINTS_SHOWN ? 0 : 3,
    borderColor: palette.series[index % count],
    backgroundColor: palette.series[index % count],
    borderDash: DASHES[Math.floor(index / count) % DASHES.length],
  }));
  if (chart.level) {
    const end = Math.max(0, ...datasets.flatMap(({ data }) => data.map(({ x }) => x)));
    const data = [0, end].map((x) => ({ x, y: chart.level[1] }));
    datasets.push({ label: chart.level[0], data, borderColor: palette.level, borderDash: [8, 5] });
  }
  return {
    type: "line",
    data: { datasets },
    options: {
      scales: { x: { type: "linear", ...axis(chart.x_title) }, y: axis(chart.unit) },
      elements: { line: { borderWidth: 2 }, point: { radius: 0, borderWidth: 2 } },
      interaction: { mode: "nearest", axis: "x", intersect: false },
      plugins: {
        legend: { labels: { usePointStyle: true, pointStyle: "line" } },
        tooltip: {
          callbacks: {
            title: ([item]) => withUnit(item.parsed.x, chart.x_title),
            label: ({ dataset, parsed }) => `${dataset.label}: ${withUnit(parsed.y, chart.unit)}`,
          },
        },
      },
    },
  };
}

function barChart(chart, palette) {
  const datasets = Object.entries(chart.series).map(([label, data], index) => ({
    label,
    data,
    backgroundColor: palette.series[index],
    maxBarThickness: BAR_HEIGHT,
    stack: chart.stacked ? "all" : label,
  }));
  if (chart.ranges.length) { // thin, and drawn over the bars
    const range = { label: chart.range_name, data: chart.ranges, backgroundColor: palette.series[1], barThickness: 3 };
    datasets.unshift({ ...range, grouped: false, minBarLength: 3 });
  }
  return {
    type: "bar",
    data: { labels: barLabels(chart), datasets },
    options: {
      indexAxis: "y",
      scales: { x: axis(chart.unit), y: { grid: { display: false }, ticks: { autoSkip: false } } },
      interaction: { mode: "index", axis: "y", intersect: false },
      plugins: {
        legend: { reverse: chart.ranges.length > 0 }, // the bars come before their ranges
        tooltip: {
          callbacks: {
            title: ([item]) => chart.labels[item.dataIndex],
            label: ({ dataset, raw }) => `${dataset.label}: ${withUnit(raw, chart.unit)}`,
          },
        },
      },
    },
  };
}

function draw() {
  const palette = colours();
  Object.assign(Chart.defaults, { color: palette.text, borderColor: palette.faint });
  for (const figure of document.querySelectorAll("figure")) {
    const chart = JSON.parse(figure.querySelector("script").textContent);
    const canvas = figure.querySelector("canvas");
    if (chart.kind === "bar") {
      const bars = chart.stacked ? 1 : Object.keys(chart.series).length;
      const lines = Math.max(...barLabels(chart).map((lines) => lines.length));
      canvas.parentElement.style.height = `${BAR_MARGIN + chart.labels.length * BAR_HEIGHT * (Math.max(bars, lines) + 1)}px`;
    }
    Chart.getChart(canvas)?.destroy();
    new Chart(canvas, chart.kind === "bar" ? barChart(chart, palette) : lineChart(chart, palette));
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();

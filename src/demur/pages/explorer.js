"use strict";
(function () {
  const MOST_SHOWN = 12;
  // "label" is the column that ought to be chosen, 0 = answer: every row has one of four outcomes.
  const outcome = (label, choice) =>
    label > 0 ? (choice > 0 ? "rightly refused" : "missed") : choice > 0 ? "wrongly refused" : "rightly answered";
  const share = (hits, of) => (of ? `${((100 * hits) / of).toFixed(1)} % (${hits} of ${of})` : "no such prompts");

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text; // prompts are untrusted: never parsed as markup
    if (className) made.className = className;
    return made;
  }

  function explore(place) {
    const { choices, sliders, rows, command } = JSON.parse(place.querySelector("script").textContent);
    const position = choices.map(() => 0);
    for (const s of sliders) position[s.column] = s.start;
    const decide = (row) => (row.rank > 0 && position[row.column] >= row.rank ? row.column : row.below);
    const before = rows.map(decide);
    const rates = place.querySelector(".rates");
    const found = place.querySelector(".found");
    const search = place.querySelector("input[type=search]");
    const only = place.querySelector("select");
    const typed = place.querySelector("pre");

    function threshold(s) {
      if (position[s.column] === s.start) return s.threshold;
      return position[s.column] === 0 ? "never" : Number(s.thresholds[position[s.column] - 1].toPrecision(4)).toString();
    }

    function measure(chosen) {
      const count = (test) => rows.reduce((n, row, i) => n + (test(row.label, chosen[i]) ? 1 : 0), 0);
      const answerable = count((label) => label === 0);
      const moved = chosen.reduce((n, choice, i) => n + (choice !== before[i] ? 1 : 0), 0);
      rates.replaceChildren();
      for (const [name, text] of [
        ["false refusals", share(count((l, c) => l === 0 && c > 0), answerable)],
        ["caught", share(count((l, c) => l > 0 && c > 0), rows.length - answerable)],
        ["decisions changed", `${moved} of ${rows.length}`],
      ]) {
        const box = element("div");
        box.append(element("dt", name), element("dd", text));
        rates.append(box);
      }
      for (const s of sliders) {
        const line = place.querySelector(`[data-column="${s.column}"]`);
        line.querySelector("output").textContent = threshold(s);
        const caught = share(count((l, c) => l === s.column && c > 0), count((l) => l === s.column));
        line.querySelector(".caught").textContent = caught;
      }
      const asked = sliders
        .filter((s) => position[s.column] !== s.start)
        .map((s) => `${choices[s.column]}=${position[s.column] ? s.thresholds[position[s.column] - 1] : "never"}`);
      typed.textContent = [command, ...asked.map((a) => `--threshold ${a}`)].join(" ");
    }

    function list(chosen) {
      const words = search.value.trim().toLowerCase();
      const wanted = only.value;
      const hits = rows
        .map((row, i) => ({ row, choice: chosen[i], was: before[i], state: outcome(row.label, chosen[i]) }))
        .filter((one) => !words || one.row.prompt.toLowerCase().includes(words))
        .filter((one) => !wanted || (wanted === "changed" ? one.choice !== one.was : one.state === wanted));
      found.replaceChildren(element("p", `${hits.length} prompts, ${Math.min(hits.length, MOST_SHOWN)} shown`, "soft"));
      for (const one of hits.slice(0, MOST_SHOWN)) {
        const card = element("article");
        card.append(element("p", one.row.prompt, "prompt"));
        const meant = one.row.label ? `refuse: ${choices[one.row.label]}` : `answer (${one.row.kind})`;
        card.append(element("p", `${one.state}; decided ${choices[one.choice]}; ought to be ${meant}`, "soft"));
        found.append(card);
      }
    }

    function update() {
      const chosen = rows.map(decide);
      measure(chosen);
      list(chosen);
    }

    for (const s of sliders) {
      const range = place.querySelector(`[data-column="${s.column}"] input`);
      range.addEventListener("input", () => {
        position[s.column] = Number(range.value);
        update();
      });
    }
    search.addEventListener("input", update);
    only.addEventListener("change", update);
    place.querySelector("button").addEventListener("click", () => {
      for (const s of sliders) {
        position[s.column] = s.start;
        place.querySelector(`[data-column="${s.column}"] input`).value = s.start;
      }
      update();
    });
    update();
  }

  document.querySelectorAll(".explorer").forEach(explore);
  window.addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details.fold")) fold.open = true;
  });
})();

"use strict";
(() => {
  const PER_PAGE = 20;
  const SAME_TEXT = 0;
  // The same list as in visible_text.py.
  const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
  const at = (id) => document.getElementById(id);
  const browser = at("browser");
  if (!browser) {
    return;
  }
  const { sets, runs, unguided, samples } = JSON.parse(at("data").textContent);
  const policies = runs.map((_, number) => number).filter((number) => number !== unguided);
  const searchable = new Array(samples.length);
  let found = [];
  let page = 1;

  const element = (tag, options = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };

  // Texts become text nodes; characters that would act unseen become marked names of themselves.
  const visible = (text) => {
    const parts = document.createDocumentFragment();
    let start = 0;
    for (const match of text.matchAll(UNSEEN)) {
      parts.append(text.slice(start, match.index));
      const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      parts.append(element("span", { class: "mark" }, `U+${code}`));
      start = match.index + match[0].length;
    }
    parts.append(text.slice(start));
    return parts;
  };

  const textOf = (answers, run) => {
    const text = answers[run][0];
    return text === SAME_TEXT ? answers[unguided][0] : text;
  };

  const searchText = (number) => {
    if (searchable[number] === undefined) {
      const [, , prompt, prefill, answers] = samples[number];
      const texts = answers.filter((answer) => answer && answer[0] !== SAME_TEXT).map((answer) => answer[0]);
      searchable[number] = [prompt, prefill ?? "", ...texts].join("\n").toLowerCase();
    }
    return searchable[number];
  };

  const accepted = () => {
    const set = at("filter-set").value;
    const run = at("filter-run").value;
    const action = at("filter-action").value;
    const change = at("filter-change").value;
    const text = at("filter-text").value.toLowerCase();
    const looked = run === "" ? policies : [Number(run)];
    const fits = (answer) =>
      answer &&
      (action === "" || answer[2] === action) &&
      (change === "" || (answer[1] !== null && answer[1] === (change === "unchanged")));
    const filtersAnswers = action !== "" || change !== "" || run !== "";
    const numbers = [];
    samples.forEach(([inSet, , , , answers], sample) => {
      if (set !== "" && inSet !== Number(set)) {
        return;
      }
      if (filtersAnswers && !looked.some((number) => fits(answers[number]))) {
        return;
      }
      if (text === "" || searchText(sample).includes(text)) {
        numbers.push(sample);
      }
    });
    return numbers;
  };

  const readings = (answer, run) => {
    const [, identical, action, applied, scores, harm, perplexity, extra] = answer;
    const list = element("ul", { class: "readings" });
    const add = (text) => list.append(element("li", {}, visible(text)));
    if (run !== unguided) {
      add(action === applied ? `verdict: ${action}` : `verdict: ${action}, applied: ${applied}`);
      if (identical !== null) {
        add(identical ? "token-identical to unguided" : "changed");
      }
    }
    if (run !== unguided && Object.keys(scores).length === 0) {
      add("no score read");
    }
    Object.keys(scores).sort().forEach((detector) => add(`${detector}: ${scores[detector]}`));
    if (harm !== null) {
      add(`judged harm: ${harm}`);
    }
    Object.keys(perplexity).sort().forEach((model) => add(`perplexity under ${model}: ${perplexity[model]}`));
    if (extra > 0) {
      add(`extra forward tokens: ${extra}`);
    }
    return list;
  };

  const block = (text) => element("p", { class: "text", dir: "auto" }, visible(text));

  const texts = (prompt, prefill, answers) => {
    const part = element("div", {}, element("h4", {}, "Prompt"), block(prompt));
    if (prefill !== null) {
      part.append(element("h4", {}, "Forced beginning of the answer"), block(prefill));
    }
    const chosen = at("filter-run").value;
    const columns = element("div", { class: "answers" });
    runs.forEach((name, run) => {
      if (chosen !== "" && run !== Number(chosen) && run !== unguided) {
        return;
      }
      const column = element("section", { class: "answer" }, element("h4", {}, visible(name)));
      if (answers[run]) {
        const text = textOf(answers, run);
        column.append(text === "" ? element("p", { class: "note" }, "(empty answer)") : block(text));
        column.append(readings(answers[run], run));
      } else {
        column.append(element("p", { class: "note" }, "no row"));
      }
      columns.append(column);
    });
    part.append(columns);
    return part;
  };

  const sampleOf = (number) => {
    const [set, index, prompt, prefill, answers] = samples[number];
    const verdicts = policies
      .filter((run) => answers[run])
      .map((run) => `${runs[run]}: ${answers[run][2]}`)
      .join(", ");
    const heading = element("h3", {}, visible(`${sets[set].name}, index ${index}`));
    const article = element("article", { class: "sample" }, heading);
    if (verdicts !== "") {
      article.append(element("p", { class: "note" }, visible(verdicts)));
    }
    if (sets[set].harmful) {
      const fold = element("details", {}, element("summary", {}, "Show the harmful request and its answers"));
      fold.addEventListener("toggle", () => {
        if (fold.open && fold.children.length === 1) {
          fold.append(texts(prompt, prefill, answers));
        }
      });
      fold.open = at("unfold").checked;
      article.append(fold);
    } else {
      article.append(texts(prompt, prefill, answers));
    }
    return article;
  };

  const lastPage = () => Math.max(1, Math.ceil(found.length / PER_PAGE));

  const showPage = (wanted, focus) => {
    page = Math.min(Math.max(1, Math.trunc(wanted) || 1), lastPage());
    const start = (page - 1) * PER_PAGE;
    const shown = found.slice(start, start + PER_PAGE);
    at("list").replaceChildren(...shown.map(sampleOf));
    at("count").textContent =
      found.length === 0
        ? `No sample fits (of ${samples.length}).`
        : `Samples ${start + 1} to ${start + shown.length} of ${found.length} that fit (of ${samples.length}).`;
    at("page").value = String(page);
    at("page").max = String(lastPage());
    at("pages").textContent = `of ${lastPage()}`;
    at("first").disabled = at("previous").disabled = page === 1;
    at("next").disabled = at("last").disabled = page === lastPage();
    if (focus) {
      at("list").focus({ preventScroll: true });
      at("count").scrollIntoView();
    }
  };

  const filter = () => {
    found = accepted();
    showPage(1, false);
  };

  const options = (id, entries) =>
    entries.forEach(([value, text]) => at(id).append(element("option", { value: String(value) }, visible(text).textContent)));
  options("filter-set", sets.map((set, number) => [number, set.name]));
  options("filter-run", policies.map((run) => [run, runs[run]]));
  const order = ["allow", "annotate", "guide", "refuse"];
  options("filter-action", order.map((action) => [action, action]));

  let waiting;
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("filters").addEventListener("change", filter);
  at("filters").addEventListener("reset", () => setTimeout(filter));
  at("filter-text").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 150);
  });
  at("unfold").addEventListener("change", () => showPage(page, false));
  at("first").addEventListener("click", () => showPage(1, true));
  at("previous").addEventListener("click", () => showPage(page - 1, true));
  at("next").addEventListener("click", () => showPage(page + 1, true));
  at("last").addEventListener("click", () => showPage(lastPage(), true));
  at("page").addEventListener("change", () => showPage(Number(at("page").value), true));
  // A browser restores old choices on reload after the script has run; begin from the empty form.
  at("filters").reset();
  browser.hidden = false;
  filter();
})();

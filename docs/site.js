// What the theme leaves out for screen readers and keyboards.
document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
// Each menu within a menu has a name of its own.
document.querySelectorAll(".md-nav .md-nav").forEach((menu, place) => {
  const title = menu.querySelector(".md-nav__title")?.textContent.trim() || menu.getAttribute("aria-label") || "";
  menu.removeAttribute("aria-labelledby");
  menu.setAttribute("aria-label", `${title} (menu ${place + 1})`);
});
// A corner of a table that says nothing is no heading.
for (const corner of document.querySelectorAll("th:empty")) corner.replaceWith(document.createElement("td"));
// What scrolls sideways can be reached by the keyboard; the theme wraps tables after this has run.
const reachable = () => {
  for (const block of document.querySelectorAll("pre > code, .md-typeset__scrollwrap")) block.tabIndex = 0;
};
reachable();
new MutationObserver(reachable).observe(document.body, { childList: true, subtree: true });

"""What a person would complain of, as a browser measures it."""

from pathlib import Path

from .browser import Tab

# The lowest contrast of any text with what is behind it, and whose it is. WCAG 2, 1.4.3.
CONTRAST = """
(() => {
  const numbers = text => text.match(/[0-9.e-]+/g).map(Number);
  const colour = text => {
    const [red, green, blue, alpha = 1] = numbers(text);
    const scale = text.startsWith('color') ? 1 : 255;
    return {channels: [red, green, blue].map(value => value / scale), alpha};
  };
  const luminance = channels => {
    const [r, g, b] = channels.map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const found = colour(getComputedStyle(at).backgroundColor);
      if (found.alpha === 1) return luminance(found.channels);
    }
    throw new Error('nothing behind');
  };
  let worst = {contrast: 99};
  let count = 0;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    const element = text.parentElement;
    if (!text.textContent.trim() || !element.getBoundingClientRect().width) continue;
    // Names of boxes lie on pictures, and have an outline of their own.
    if (element.closest('script, .boxes')) continue;
    count += 1;
    const style = getComputedStyle(element);
    const ink = luminance(colour(element.closest('svg') ? style.fill : style.color).channels);
    const paper = behind(element);
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < worst.contrast) worst = {contrast, text: text.textContent.trim()};
  }
  return {...worst, count};
})()
"""
# Does an element stick out to the right of the window, apart from what lies in a scrolled region?
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def other_requests(tab: Tab, page: Path) -> list[str]:
    return [
        url for url in tab.requests() if url != page.as_uri() and not url.startswith("data:image/")
    ]

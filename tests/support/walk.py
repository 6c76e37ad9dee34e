"""Ways through a page: by mouse or by keyboard alone, with the page's own words, and pictures of it where asked for."""

import base64
import os
import re
from pathlib import Path

PICTURES = "THINKTUNE_STUDIO_PICTURES"  # a folder for screenshots and a recording; without it none are made
MOST_TABS = 400
SECONDS_SHOWN = 1.4  # of each picture in the recording

# The name of what has the focus, in the chat page's frame as well.
FOCUSED = """() => {
  let at = document.activeElement;
  while (at?.contentDocument?.activeElement) at = at.contentDocument.activeElement;
  const name = at.ariaLabel || at.labels?.[0]?.innerText || at.innerText || at.placeholder || '';
  return { name: name.trim(), tag: at.tagName, id: at.id };
}"""
WORDS = """async (language) => {
  const files = ['common', 'home', 'rows', 'recipe', 'plan', 'train', 'proof', 'talk', 'take-home'];
  const read = files.map(async (name) => [name, (await import(`/page/words/${name}.js`))[language]]);
  return JSON.parse(JSON.stringify(Object.fromEntries(await Promise.all(read))));
}"""
RECORD = """async ([pictures, seconds]) => {
  const canvas = Object.assign(document.createElement('canvas'), { width: 1280, height: 800 });
  const pen = canvas.getContext('2d');
  const recorder = new MediaRecorder(canvas.captureStream(10), { mimeType: 'video/webm', videoBitsPerSecond: 1500000 });
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const ended = new Promise((resolve) => (recorder.onstop = resolve));
  const images = await Promise.all(pictures.map(async (source) => createImageBitmap(await (await fetch(source)).blob())));
  pen.drawImage(images[0], 0, 0);
  recorder.start();
  for (const image of images) {
    const until = performance.now() + 1000 * seconds;
    while (performance.now() < until) {
      pen.drawImage(image, 0, 0);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  recorder.stop();
  await ended;
  const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
  let text = '';
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return btoa(text);
}"""


class Mouse:
    """A reader with a mouse."""

    def __init__(self, page):
        self.page = page

    def press(self, name, role="button"):
        self.page.get_by_role(role, name=name).first.click()

    def write(self, name, text):
        self.page.get_by_label(name).first.fill(text)

    def choose(self, name, option):
        self.page.locator("label", has_text=name).locator("select").first.select_option(label=option)

    def ask(self, question):
        chat = self.page.frame_locator("iframe")
        chat.locator("#question").fill(question)
        chat.locator("#send").click()


class Keys:
    """A reader with a keyboard alone: Tab, Enter, Space and letters."""

    def __init__(self, page):
        self.page = page

    def press(self, name, role="button"):
        self._reach(name)
        self.page.keyboard.press("Space" if role in ("checkbox", "radio") else "Enter")

    def write(self, name, text):
        self._reach(name)
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)

    def choose(self, name, option):
        self._reach(name)
        for _ in range(20):
            if self.page.evaluate("document.activeElement.selectedOptions[0].text") == option:
                return
            self.page.keyboard.press("ArrowDown")
        raise AssertionError(f"{name} has no {option}")

    def ask(self, question):
        self._reach(None, id="question")
        self.page.keyboard.type(question)
        self.page.keyboard.press("Enter")

    def _reach(self, name, id=None):
        """Press Tab until something of a name (a text, or a pattern) has the focus."""
        seen = []
        for _ in range(MOST_TABS):
            self.page.keyboard.press("Tab")
            at = self.page.evaluate(FOCUSED)
            found = at["name"].split("\n")[0]
            seen.append(found)
            if (id and at["id"] == id) or (name and (name.search(found) if isinstance(name, re.Pattern) else found.startswith(name))):  # fmt: skip
                return
        raise AssertionError(f"Tab never reaches {name or id}: {seen[-60:]}")


class Pictures:
    """Pictures of a walk, kept where the environment says."""

    def __init__(self, name):
        folder = os.environ.get(PICTURES)
        self.folder = Path(folder) / name if folder else None
        self.files = []

    def take(self, page, name):
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.files.append(self.folder / f"{len(self.files):02}-{name}.png")
            page.screenshot(path=self.files[-1])

    def record(self, browser):
        """Write the pictures one after the other as WebM, by the browser's own encoder."""
        if not self.files:
            return
        page = browser.new_page()
        sources = [f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}" for file in self.files]
        film = base64.b64decode(page.evaluate(RECORD, [sources, SECONDS_SHOWN]))
        (self.folder / "walk.webm").write_bytes(film)
        page.close()

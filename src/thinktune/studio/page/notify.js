// Notifications of what ended while nobody looked, where the reader has allowed them.

/** Return true if the browser can notify and has not been asked yet. */
export const mayAsk = () => 'Notification' in window && Notification.permission === 'default';

/** Ask for permission; to be called by a click. */
export const askToNotify = () => Notification.requestPermission();

/** Notify of a text if that is allowed and the tab is not looked at. */
export function notify(text) {
  if (!('Notification' in window) || Notification.permission !== 'granted' || document.visibilityState === 'visible') return;
  try {
    new Notification('thinktune', { body: text });
  } catch {
    // Browsers on phones allow it only to service workers.
  }
}

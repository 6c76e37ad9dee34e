// Numbers as people read them.

/** Format a count with separators. */
export const formatNumber = (number, language = 'en') => new Intl.NumberFormat(language === 'zh' ? 'zh-CN' : 'en').format(number);

/** Format seconds as m:ss or h:mm:ss. */
export function formatDuration(seconds) {
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, '0');
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/** Format a moment (seconds since 1970) as a short date and time. */
export const formatTime = (seconds, language = 'en') =>
  new Intl.DateTimeFormat(language === 'zh' ? 'zh-CN' : 'en', { dateStyle: 'medium', timeStyle: 'short' }).format(seconds * 1000);

/** Return a written date (ISO 8601) as the reader writes it; what is none stays as it is. */
export function formatWritten(date, language) {
  const at = Date.parse(date);
  return Number.isNaN(at) ? date : formatTime(at / 1000, language);
}

/** Format bytes with a unit of 1024. */
export function formatBytes(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  const number = bytes / 1024 ** power;
  return `${number >= 100 || !power ? Math.round(number) : number.toFixed(1)} ${units[power]}`;
}

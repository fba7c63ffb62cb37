// Numbers as text, for every widget: put before a widget's own module.

/** Three significant digits and a true minus sign, as `format_value` in figures.py. */
function formatValue(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e-3 && size < 1e5
    ? value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(size)))) : value.toExponential(2).replace("e+", "e");
  return text.replaceAll("-", "−");
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

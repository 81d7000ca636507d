/** The value below which the share `q` of the values lies. */
export function quantile(values: number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? NaN
}

export const median = (values: number[]) => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length / 2
  return sorted.length % 2 === 1
    ? sorted[Math.floor(middle)]!
    : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** Three significant digits, thousands in full. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return '-'
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString('en')
  return String(Number(value.toPrecision(3)))
}

/** Median and range. */
export const spread = (values: number[]) =>
  `${short(median(values))} (${short(Math.min(...values))}–${short(Math.max(...values))})`

/** Median and range of what each round's `values` are of the same round's `base`. */
export const ratio = (values: number[], base: number[]) =>
  spread(values.map((value, round) => value / base[round]!))

/** Prints rows with a head as a table in Markdown, columns aligned. */
export function printTable(title: string, head: string[], rows: string[][]) {
  const widths = head.map((name, i) => Math.max(name.length, ...rows.map((row) => row[i]!.length)))
  const line = (cells: string[]) =>
    `| ${cells.map((cell, i) => cell.padEnd(widths[i]!)).join(' | ')} |`
  console.log(
    [
      `\n${title}\n`,
      line(head),
      line(widths.map((width) => '-'.repeat(width))),
      ...rows.map(line),
    ].join('\n'),
  )
}

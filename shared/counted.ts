/** `1 peer`, `2 peers`: a number of things for people. */
export function counted(count: number, thing: string): string {
  return `${count} ${thing}${count === 1 ? '' : 's'}`;
}

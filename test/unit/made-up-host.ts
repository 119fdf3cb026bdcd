/** A host that is made up: its links, rules, routes and tables, as `ip` and `nft` show and change them. */
import type { NftChain } from '../../shared/system/nft.ts';
import type { Run } from '../../shared/system/run.ts';

type Row = Readonly<Record<string, unknown>>;

export class MadeUpHost {
  /** Of the family inet: chains by table. */
  readonly tables = new Map<string, readonly string[]>();
  /** The same of the family arp. */
  readonly arpTables = new Map<string, readonly string[]>();
  links: readonly string[] = ['lo', 'eth0'];
  /** Links of other namespaces, by name; null: nobody may look. */
  readonly namespaces = new Map<string, readonly Row[] | null>();
  /** Those in the link group of tunnels. */
  tunnels: readonly string[] = [];
  /** Rules and routes by family, `-4` and `-6`. */
  rules: Readonly<Record<string, readonly Row[]>> = {};
  routes: Readonly<Record<string, readonly Row[]>> = {};
  /** Commands that changed something. */
  readonly changes: string[] = [];
  /** Throws to refuse a change. */
  refuse: (line: string) => void = () => {};

  readonly run: Run = async (program, args) => {
    const shown = this.#shown(program, args);
    if (shown === null) this.#change(program, args);
    return { stdout: JSON.stringify(shown ?? ''), stderr: '' };
  };

  #shown(program: string, args: readonly string[]): unknown {
    const [first, , what] = args;
    if (program === 'nft' && first === '-j') {
      const chainsOf = (family: string, tables: ReadonlyMap<string, readonly string[]>) =>
        [...tables].flatMap(([table, names]) =>
          names.map((name): { chain: NftChain } => ({ chain: { family, table, name } })),
        );
      const chains = [...chainsOf('inet', this.tables), ...chainsOf('arp', this.arpTables)];
      const tables = [...this.tables.keys()].map((name) => ({ table: { family: 'inet', name } }));
      return { nftables: [...tables, ...chains] };
    }
    if (args.includes('netns') && args.includes('list')) {
      return [...this.namespaces.keys()].map((name) => ({ name }));
    }
    if (!args.includes('show')) return null;
    if (first === '-n') {
      const rows = this.namespaces.get(args[1]!);
      if (!rows) throw new Error('Operation not permitted');
      return rows;
    }
    if (args.includes('group')) return this.tunnels.map((ifname) => ({ ifname }));
    if (args.includes('address')) return this.links.map((ifname) => ({ ifname, flags: [] }));
    return (what === 'rule' ? this.rules : this.routes)[first!] ?? [];
  }

  #change(program: string, args: readonly string[]): void {
    const line = [program, ...args].join(' ');
    this.refuse(line);
    this.changes.push(line);
    if (program === 'nft')
      (args.includes('arp') ? this.arpTables : this.tables).delete(args.at(-1)!);
    else if (args.includes('netns')) this.namespaces.delete(args.at(-1)!);
    else if (args.includes('flush')) this.routes = {};
    else this.rules = {};
  }
}

/** The client's state machine: every way to a connection, and what follows a silence. */
import { expect, test } from 'vitest';
import {
  type Action,
  Connection,
  type ConnectionPlan,
  type Input,
  type Resolution,
} from '../../client/connection.ts';

const A = { address: '10.77.1.1', port: 6000 };
const B = { address: 'fd00::1', port: 6000 };
const PLAN: ConnectionPlan = {
  endpoints: [{ host: 'vpn.example', port: 6000 }],
  identity: 'own',
  lease: true,
  timeoutMs: 30_000,
};

const found = (...addresses: (typeof A)[]): Input => ({
  type: 'resolved',
  resolution: {
    found: addresses,
    ways: ['10.77.1.1 through eth0'],
    problems: [],
    hopeless: false,
  },
});
const notFound = (resolution: Partial<Resolution>): Input => ({
  type: 'resolved',
  resolution: { found: [], ways: [], problems: [], hopeless: false, ...resolution },
});
const established: Input = { type: 'established', endpoint: A };

/** A connection with a clock; actions are told in short. */
class Run {
  now = 0;
  error: string | null = null;
  readonly connection: Connection;
  constructor(plan: Partial<ConnectionPlan> = {}) {
    this.connection = new Connection({ ...PLAN, ...plan }, () => 0);
  }
  feed(...inputs: Input[]): string[] {
    return inputs
      .flatMap((input) => this.connection.handle(input, this.now))
      .map((a) => this.short(a));
  }
  /** Ticks four times a second; returns what happened. */
  wait(ms: number): string[] {
    const all: string[] = [];
    for (const end = this.now + ms; this.now < end; ) {
      this.now += 250;
      all.push(...this.feed({ type: 'tick' }));
    }
    return all;
  }
  short(action: Action): string {
    switch (action.type) {
      case 'aim':
        return `aim ${action.endpoint.address} ${action.identity}`;
      case 'request':
        return `request ${action.request}`;
      case 'stage':
        return `stage ${action.stage}`;
      case 'fail':
        this.error = `${action.error.code}: ${action.error.message}`;
        return 'fail';
      case 'note':
        return `note ${action.good ? '+' : '-'} ${action.text}`;
      default:
        return action.type;
    }
  }
  /** All the way to a connection. */
  connect(...addresses: (typeof A)[]): this {
    this.feed({ type: 'start' }, found(...(addresses.length > 0 ? addresses : [A])), established);
    this.feed({ type: 'leased' }, { type: 'applied', text: '' }, { type: 'checked', text: '' });
    expect(this.connection.state).toBe('connected');
    return this;
  }
}

test('with a remembered server: look up, shake hands, ask for the lease, set up, check', () => {
  const run = new Run();
  expect(run.feed({ type: 'start' })).toEqual(['resolve']);
  expect(run.feed(found(A))).toEqual(['stage resolve', 'stage reach', 'aim 10.77.1.1 own']);
  expect(run.feed(established)).toEqual(['stage handshake', 'request lease']);
  expect(run.feed({ type: 'leased' })).toEqual(['apply']);
  expect(run.feed({ type: 'applied', text: '' })).toEqual(['stage address', 'check']);
  expect(run.connection.state).toBe('connecting');
  expect(run.feed({ type: 'checked', text: '' })).toEqual(['stage check', 'ready']);
  expect(run.connection.state).toBe('connected');
});

test('with an invite: enrol under the throw-away key, then come back under our own', () => {
  const run = new Run({ identity: 'invite' });
  expect(run.feed({ type: 'start' }, found(A)).at(-1)).toBe('aim 10.77.1.1 invite');
  expect(run.feed(established)).toEqual(['stage handshake', 'request enrol']);
  expect(run.feed(established)).toEqual([]);
  expect(run.feed({ type: 'enrolled', name: 'laptop' })).toEqual([
    'keep',
    'stage enrol',
    'aim 10.77.1.1 own',
  ]);
  expect(run.feed(established)).toEqual(['stage handshake', 'request lease']);
  expect(run.feed({ type: 'enrolled', name: 'again' })).toEqual([]);
});

test('after an enrolment that was cut off both keys are tried in turns', () => {
  const run = new Run({ identity: 'either' });
  expect(run.feed({ type: 'start' }, found(A)).at(-1)).toBe('aim 10.77.1.1 invite');
  expect(run.wait(13_000)).toEqual(['aim 10.77.1.1 own', 'aim 10.77.1.1 invite']);
  expect(run.wait(5_500)).toEqual(['aim 10.77.1.1 own']);
  // The own key is answered: no more turns.
  expect(run.feed(established)).toEqual(['stage handshake', 'request lease']);
  expect(run.feed({ type: 'unanswered' })).toEqual(['aim 10.77.1.1 own']);
  expect(run.wait(8_000)).toEqual([]);
});

test('a stock server leases nothing: the profile is applied', () => {
  const run = new Run({ lease: false });
  expect(run.feed({ type: 'start' }, found(A), established).slice(-2)).toEqual([
    'stage handshake',
    'apply',
  ]);
  expect(run.feed(established)).toEqual([]);
});

test('a profile without an endpoint waits for the other side', () => {
  const run = new Run({ lease: false, endpoints: [] });
  expect(run.feed({ type: 'start' })).toEqual(['apply']);
  run.feed({ type: 'applied', text: '' }, { type: 'checked', text: '' });
  expect(run.connection.state).toBe('connected');
});

test('several addresses are tried in turns, 1 s each at first, then 2.5 s', () => {
  const run = new Run();
  run.feed({ type: 'start' }, found(A, B));
  expect(run.wait(1_000)).toEqual(['aim fd00::1 own']);
  expect(run.wait(1_000)).toEqual(['aim 10.77.1.1 own']);
  expect(run.wait(2_250)).toEqual([]);
  expect(run.wait(250)).toEqual(['aim fd00::1 own']);
});

test('an address whose time has just begun keeps it, though the name is looked up meanwhile', () => {
  const run = new Run();
  const attempt: Input = { type: 'attempt' };
  run.feed({ type: 'start' }, found(A, B), attempt);
  expect(run.wait(1_000)).toEqual(['aim fd00::1 own']);
  expect(run.feed(attempt)).toEqual(['resolve']);
  expect(run.feed(found(A, B))).toEqual([]);
  expect(run.wait(750)).toEqual([]);
  expect(run.feed({ type: 'established', endpoint: B })).toContain('request lease');

  // When the connection was lost, too, and the resolver has turned its list round.
  run.feed({ type: 'leased' }, { type: 'applied', text: '' }, { type: 'checked', text: '' });
  expect(run.feed(attempt, attempt)).toContain('resolve');
  expect(run.feed(found(A, B))).toEqual(['aim 10.77.1.1 own']);
  expect(run.feed(attempt)).toEqual([]);
  expect(run.wait(5_000)).toEqual(['aim fd00::1 own']);
  expect(run.feed(attempt)).toContain('resolve');
  expect(run.feed(found(B, A))).toEqual([]);
  expect(run.wait(4_750)).toEqual([]);
  expect(run.wait(250)).toEqual(['aim 10.77.1.1 own']);
  run.feed(attempt);
  expect(run.feed(attempt)).toContain('resolve');
  expect(run.feed(notFound({}))).toEqual([]);
});

test('two attempts without an answer look the name up again', () => {
  const run = new Run();
  run.feed({ type: 'start' }, found(A));
  const attempt: Input = { type: 'attempt' };
  expect(run.feed(attempt)).toEqual([]);
  expect(run.feed(attempt)).toEqual(['resolve']);
  expect(run.feed(attempt, attempt, attempt)).toEqual([]);
  expect(run.feed(found(B))).toEqual(['stage resolve', 'stage reach', 'aim fd00::1 own'].slice(2));
});

test('no answer until the time is over: the error names every address', () => {
  const run = new Run({ timeoutMs: 3_000 });
  run.feed({ type: 'start' }, found(A, B));
  expect(run.wait(3_000).at(-1)).toBe('fail');
  expect(run.error).toMatch(
    /^SERVER_UNREACHABLE: no answer from vpn\.example:6000, 10\.77\.1\.1:6000, \[fd00::1\]:6000 within 3 s$/,
  );
  expect(run.connection.state).toBe('failed');
  expect(run.feed(established, { type: 'leased' })).toEqual([]);
});

test('a server that shakes hands and leases nothing has an error of its own', () => {
  const run = new Run({ timeoutMs: 3_000 });
  run.feed({ type: 'start' }, found(A), established);
  run.wait(3_000);
  expect(run.error).toMatch(/^SERVER_UNREACHABLE: .* shook hands.* stage lease/);
});

test('a name that does not exist ends at once, one that cannot be asked for is asked again', () => {
  const hopeless = new Run();
  hopeless.feed({ type: 'start' });
  const problems = ['cannot look up vpn.example: there is no such name'];
  expect(hopeless.feed(notFound({ problems, hopeless: true })).at(-1)).toBe('fail');
  expect(hopeless.error).toBe(`NAME_NOT_RESOLVED: ${problems[0]}`);
  const patient = new Run({ timeoutMs: 4_000 });
  patient.feed({ type: 'start' });
  const failed = notFound({ problems: ['cannot look up vpn.example: EAI_AGAIN'] });
  expect(patient.feed(failed)).toEqual(['note - cannot look up vpn.example: EAI_AGAIN']);
  expect(patient.wait(1_000)).toEqual(['resolve']);
  expect(patient.feed(failed)).toEqual([]);
  patient.wait(3_000);
  expect(patient.error).toMatch(/^NAME_NOT_RESOLVED: .*EAI_AGAIN/);
});

test('a host without a route says so', () => {
  const run = new Run({ timeoutMs: 1_000 });
  run.feed({ type: 'start' }, notFound({ problems: ['no route to 10.77.1.1'] }));
  run.wait(1_000);
  expect(run.error).toBe('SERVER_UNREACHABLE: no route to 10.77.1.1');
});

test('a refusal ends the first connection and not a later one', () => {
  const run = new Run({ identity: 'invite' });
  run.feed({ type: 'start' }, found(A), established);
  expect(run.feed({ type: 'refused', reason: 'inviteUsed' })).toEqual(['fail']);
  expect(run.error).toBe('REFUSED: the invite was used already');
  const later = new Run().connect();
  later.feed(established);
  expect(later.feed({ type: 'refused', reason: 'serverError' })[0]).toMatch(/^note - .*going on/);
  expect(later.connection.state).toBe('connected');
});

test('a request without an answer begins again at the handshake', () => {
  const run = new Run();
  run.feed({ type: 'start' }, found(A), established);
  expect(run.feed({ type: 'unanswered' })).toEqual(['aim 10.77.1.1 own']);
  expect(run.feed(established)).toEqual(['stage handshake', 'request lease']);
  expect(new Run().connect().feed({ type: 'unanswered' })).toEqual([]);
});

test('the lease is renewed in every session and applied without a new check', () => {
  const run = new Run().connect();
  expect(run.feed(established)).toEqual(['request lease']);
  expect(run.feed({ type: 'leased' })).toEqual(['apply']);
  expect(run.feed({ type: 'applied', text: '' })).toEqual([]);
});

test('a server that falls silent: reconnecting, new look-up, next address, back', () => {
  const run = new Run().connect(A, B);
  const attempt: Input = { type: 'attempt' };
  expect(run.feed(attempt, attempt, attempt)).toEqual([
    'note - the server does not answer; trying again',
    'resolve',
  ]);
  expect(run.connection.state).toBe('reconnecting');
  expect(run.feed(found(A, B))).toEqual(['aim fd00::1 own']);
  expect(run.wait(5_000)).toEqual(['aim 10.77.1.1 own']);
  expect(run.feed(established)).toEqual([
    'note + connected again to 10.77.1.1:6000',
    'request lease',
  ]);
  expect(run.connection.state).toBe('connected');
  expect(run.wait(60_000)).toEqual([]);
});

test('it never gives up once it was connected', () => {
  const run = new Run().connect();
  expect(run.feed({ type: 'gaveUp' }).at(-1)).toBe('resolve');
  run.feed(notFound({ problems: ['cannot look up vpn.example: EAI_AGAIN'], hopeless: true }));
  expect(run.wait(10_000)).toEqual(['resolve']);
  expect(run.feed(found(A))).toEqual(['aim 10.77.1.1 own']);
  expect(run.feed({ type: 'gaveUp' })).toEqual(['resolve']);
  run.wait(3_600_000);
  expect(run.connection.state).toBe('reconnecting');
});

test('a goodbye of the server is followed by a knock a second later', () => {
  const run = new Run().connect();
  expect(run.feed({ type: 'bye' })[0]).toMatch(/^note - the server has gone/);
  expect(run.connection.state).toBe('reconnecting');
  expect(run.wait(1_000)).toEqual(['aim 10.77.1.1 own']);
});

test.each([
  ['revoked', 'this device was revoked by the server'],
  ['suspended', 'this device was suspended by the server'],
  ['expired', "this device's time at the server has expired"],
] as const)('who is %s ends, connected or not', (reason, message) => {
  for (const inputs of [[], [established, { type: 'leased' }, { type: 'applied', text: '' }]]) {
    const run = new Run();
    run.feed({ type: 'start' }, found(A), ...(inputs as Input[]));
    if (inputs.length > 0) run.feed({ type: 'checked', text: '' });
    run.feed({ type: 'dismissed', reason });
    expect(run.error).toBe(`REFUSED: ${message}`);
    expect(run.connection.state).toBe('failed');
  }
});

test('another way to the server: a handshake at once, whatever the keys would allow', () => {
  const run = new Run().connect();
  const moved: Input = { type: 'way', way: 'changed', text: 'eth1 via 10.0.0.1' };
  expect(run.feed(moved)).toEqual(['note - eth1 via 10.0.0.1', 'knock']);
  expect(run.connection.state).toBe('reconnecting');
  expect(run.feed(established)).toEqual([
    'note + connected again to 10.77.1.1:6000',
    'request lease',
  ]);
  expect(run.connection.state).toBe('connected');
});

test('no way at all: nothing is sent until there is one', () => {
  const run = new Run({ endpoints: [{ host: '10.77.1.1', port: 6000 }] }).connect();
  expect(run.feed({ type: 'way', way: 'gone', text: 'no way' })).toEqual(['note - no way']);
  expect(run.wait(60_000)).toEqual([]);
  expect(run.feed({ type: 'way', way: 'changed', text: 'eth0' })).toEqual(['note - eth0', 'knock']);
});

test('no way to the address in use: the other ones of the name at once, and the name anew', () => {
  const run = new Run().connect(A, B);
  const gone: Input = { type: 'way', way: 'gone', text: 'no way' };
  expect(run.feed(gone)).toEqual(['note - no way', 'aim fd00::1 own', 'resolve']);
  expect(run.feed(gone)).toEqual(['aim 10.77.1.1 own']);
});

test('no way to the only address that had one: the others that were given are asked for at once', () => {
  const endpoints = ['10.77.1.1', 'fd00::1'].map((host) => ({ host, port: 6000 }));
  const run = new Run({ endpoints }).connect(A);
  const gone: Input = { type: 'way', way: 'gone', text: 'no way' };
  expect(run.feed(gone)).toEqual(['note - no way', 'resolve']);
  expect(run.feed(found(B)).at(-1)).toBe('aim fd00::1 own');
});

test('over a new way that does not lead there the other addresses are tried', () => {
  const run = new Run().connect(A, B);
  run.feed({ type: 'way', way: 'changed', text: 'eth1' });
  expect(run.wait(5_000)).toEqual(['aim fd00::1 own']);
});

test('a network that comes while names are looked up has them looked up again', () => {
  const run = new Run();
  run.feed({ type: 'start' }, notFound({ problems: ['no route to 10.77.1.1'] }));
  expect(run.feed({ type: 'way', way: 'changed', text: 'eth0' })).toEqual(['resolve']);
});

test('look-ups that fail are repeated ever more rarely, once a minute at least', () => {
  const run = new Run().connect();
  const attempt: Input = { type: 'attempt' };
  expect(run.feed(attempt, attempt).at(-1)).toBe('resolve');
  const pauses: number[] = [];
  for (let i = 0; i < 9; i++) {
    run.feed(notFound({}));
    const from = run.now;
    while (!run.wait(250).includes('resolve'));
    pauses.push((run.now - from) / 1_000);
  }
  expect(pauses).toEqual([1, 2, 4, 8, 16, 32, 60, 60, 60]);
});

test('what keeps the server from being found is said when it begins, and every ten minutes that it lasts', () => {
  const failed = notFound({ problems: ['cannot look up vpn.example: EAI_AGAIN'] });
  const note = 'note - cannot look up vpn.example: EAI_AGAIN';
  const run = new Run();
  run.feed({ type: 'start' });
  expect(run.feed(failed)).toEqual([note]);
  // It passed: when it is back after that it is news.
  run.connect();
  const attempt: Input = { type: 'attempt' };
  run.feed(attempt, attempt);
  expect(run.feed(failed)).toContain(note);
  const said: number[] = [];
  for (const from = run.now; run.now < from + 3_600_000; ) {
    const [done] = run.wait(250);
    if (done === 'resolve' && run.feed(failed).includes(note)) said.push(run.now - from);
  }
  expect(said.map((ms) => Math.floor(ms / 600_000))).toEqual([1, 2, 3, 4, 5]);
  expect(run.feed(attempt, attempt).filter((action) => action.startsWith('note'))).toEqual([
    'note - the server does not answer; trying again',
  ]);
});

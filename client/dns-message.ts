/**
 * DNS messages, as far as we ask for ourselves: questions of one name, and A and AAAA answers
 * (RFC 1035 section 4, RFC 3596). No I/O.
 */
import { randomBytes } from '../shared/node-crypto.ts';

export const DNS_PORT = 53;
/** Types of records, RFC 1035 section 3.2.2 and RFC 3596. */
export const RecordType = { a: 1, ns: 2, aaaa: 28 } as const;

const HEADER = 12;
const CLASS_IN = 1;
const RECURSION_DESIRED = 0x0100;
const RESPONSE = 0x8000;
const CODE_MASK = 0x000f;
const NAME_ERROR = 3;

/** A number of 16 bits that a stranger cannot guess, for one question. */
export function freshId(): number {
  const [high, low] = randomBytes(2);
  return high! * 256 + low!;
}

/** A query with one question; `.` is the root. */
export function question(id: number, type: number, name: string): Buffer {
  const labels = name.split('.').filter((label) => label !== '');
  const text = Buffer.concat([
    ...labels.map((l) => Buffer.concat([Buffer.of(l.length), Buffer.from(l, 'latin1')])),
    Buffer.of(0),
  ]);
  const query = Buffer.alloc(HEADER + text.length + 4);
  query.writeUInt16BE(id, 0);
  query.writeUInt16BE(RECURSION_DESIRED, 2);
  query.writeUInt16BE(1, 4);
  text.copy(query, HEADER);
  query.writeUInt16BE(type, HEADER + text.length);
  query.writeUInt16BE(CLASS_IN, HEADER + text.length + 2);
  return query;
}

/** Whether `message` says that it answers the question `id`. */
export function isAnswer(message: Buffer, id: number): boolean {
  return (
    message.length >= HEADER &&
    message.readUInt16BE(0) === id &&
    (message.readUInt16BE(2) & RESPONSE) !== 0
  );
}

/** Addresses of an answer; null: it is none to this question, or broken. */
export function readAnswer(
  message: Buffer,
  id: number,
  name: string,
): readonly string[] | 'missing' | null {
  if (!isAnswer(message, id)) return null;
  try {
    const asked = question(id, 0, name).subarray(HEADER, -4);
    const heard = message.subarray(HEADER, HEADER + asked.length);
    const text = (bytes: Buffer): string => bytes.toString('latin1').toLowerCase();
    if (text(heard) !== text(asked)) return null;
    const code = message.readUInt16BE(2) & CODE_MASK;
    if (code !== 0) return code === NAME_ERROR ? 'missing' : [];
    return addressesFrom(message, HEADER + asked.length + 4, message.readUInt16BE(6));
  } catch {
    // Shorter than it says.
    return null;
  }
}

/** `count` records from `start`; throws RangeError behind the end. */
function addressesFrom(message: Buffer, start: number, count: number): string[] {
  const found: string[] = [];
  let at = start;
  for (let i = 0; i < count; i++) {
    at = afterName(message, at);
    const type = message.readUInt16BE(at);
    const length = message.readUInt16BE(at + 8);
    const data = message.subarray(at + 10, at + 10 + length);
    if (type === RecordType.a && data.length === 4) found.push([...data].join('.'));
    if (type === RecordType.aaaa && data.length === 16) {
      found.push(data.toString('hex').match(/.{4}/g)!.join(':'));
    }
    at += 10 + length;
  }
  return found;
}

/** Where a name ends: after its labels, or a pointer. */
function afterName(message: Buffer, start: number): number {
  let at = start;
  for (;;) {
    const length = message.readUInt8(at);
    if (length === 0) return at + 1;
    if (length >= 0xc0) return at + 2;
    at += 1 + length;
  }
}

/**
 * The commands of vpn-keygen: keys as pipe filters, interchangeable with `wg genkey`, `wg pubkey`,
 * `wg genpsk`; and key files, optionally sealed under a passphrase.
 */
import { readFileSync } from 'node:fs';
import { Option } from 'commander';
import { wipe } from '../shared/bytes.ts';
import { VpnError } from '../shared/errors.ts';
import { type Invocation, type Output, Program, type Surroundings } from '../shared/program.ts';
import { readKeyFile, writeKeyFile } from './key-file.ts';
import {
  generatePresharedKey,
  generatePrivateKey,
  keyFromBase64,
  keyToBase64,
  type PrivateKey,
  publicKeyOf,
} from './keypair.ts';

/** What the filters need of the process beside its streams. */
export interface Pipes {
  /** Reads standard input to its end. */
  readInput(): Uint8Array;
  /** st_mode of standard output. */
  outputMode(): number;
}

interface UnlockOptions {
  readonly passphraseFile?: string;
}

interface NewOptions extends UnlockOptions {
  readonly out: string;
}

const passphraseOption = new Option(
  '--passphrase-file <file>',
  'file with the passphrase; - is standard input',
);

export function createProgram(surroundings: Surroundings, pipes: Pipes): Program {
  return new Program(
    {
      name: 'vpn-keygen',
      summary: 'Makes and converts the keys of Culvert and WireGuard.',
      examples: [
        'vpn-keygen genkey | tee private.key | vpn-keygen pubkey',
        'vpn-keygen new --out laptop.key',
      ],
    },
    surroundings,
  )
    .add({
      usage: 'genkey',
      summary: 'print a new private key',
      examples: [
        'umask 077; vpn-keygen genkey > private.key',
        'vpn-keygen genkey | vpn-keygen pubkey',
      ],
      run: async ({ output }) => {
        warnWorldAccessible(output, pipes);
        const privateKey = keyToBase64(generatePrivateKey());
        output.facts({ privateKey }, privateKey);
        return undefined;
      },
    })
    .add({
      usage: 'pubkey',
      summary: 'read a private key from standard input, print its public key',
      examples: ['vpn-keygen pubkey < private.key', 'vpn-keygen genkey | vpn-keygen pubkey'],
      run: async ({ output }) => {
        const publicKey = keyToBase64(publicKeyOf(readPrivateKey(pipes)));
        output.facts({ publicKey }, publicKey);
        return undefined;
      },
    })
    .add({
      usage: 'genpsk',
      summary: 'print a new preshared key',
      examples: ['umask 077; vpn-keygen genpsk > psk.key', 'vpn-keygen genpsk --json'],
      run: async ({ output }) => {
        warnWorldAccessible(output, pipes);
        const presharedKey = keyToBase64(generatePresharedKey());
        output.facts({ presharedKey }, presharedKey);
        return undefined;
      },
    })
    .add<NewOptions>({
      usage: 'new',
      summary: 'write a new private key to a file of mode 0600, print its public key',
      examples: [
        'vpn-keygen new --out laptop.key',
        'vpn-keygen new --out laptop.key --passphrase-file passphrase.txt',
      ],
      options: [
        new Option('--out <file>', 'the file to make').makeOptionMandatory(),
        passphraseOption,
      ],
      run: (invocation) => newKey(invocation, pipes),
    })
    .add<UnlockOptions>({
      usage: 'unlock <file>',
      summary: 'print the private key in a key file',
      examples: [
        'vpn-keygen unlock laptop.key --passphrase-file passphrase.txt | vpn-keygen pubkey',
        'vpn-keygen unlock laptop.key --passphrase-file - < passphrase.txt',
      ],
      options: [passphraseOption],
      run: (invocation) => unlock(invocation, pipes),
    });
}

async function newKey(invocation: Invocation<NewOptions>, pipes: Pipes): Promise<undefined> {
  const { output, options } = invocation;
  const key = generatePrivateKey();
  const passphrase = readPassphrase(options.passphraseFile, pipes);
  writeKeyFile(options.out, key, passphrase ? { passphrase } : {});
  const publicKey = keyToBase64(publicKeyOf(key));
  wipe(key, ...(passphrase ? [passphrase] : []));
  output.facts({ file: options.out, publicKey }, publicKey);
}

async function unlock(invocation: Invocation<UnlockOptions>, pipes: Pipes): Promise<undefined> {
  const { output, options, args } = invocation;
  warnWorldAccessible(output, pipes);
  const key = readKeyFile(args[0]!, readPassphrase(options.passphraseFile, pipes));
  const privateKey = keyToBase64(key);
  output.facts({ privateKey }, privateKey);
}

/** The key on standard input, read as `wg pubkey` does: 44 characters, then only white space. */
function readPrivateKey(pipes: Pipes): PrivateKey {
  const text = Buffer.from(pipes.readInput()).toString('latin1');
  const key = keyFromBase64<PrivateKey>(text.slice(0, 44));
  if (key === null) {
    throw new VpnError('KEY_MALFORMED', 'standard input is not a key of 44 base64 characters');
  }
  // The white space of C's isspace(), which wg asks.
  if (!/^[ \t\n\v\f\r]*$/.test(text.slice(44))) {
    throw new VpnError('KEY_MALFORMED', 'more characters follow the key on standard input');
  }
  return key;
}

/** The first line of the file, without its line end. */
function readPassphrase(path: string | undefined, pipes: Pipes): Uint8Array | undefined {
  if (path === undefined) return undefined;
  let bytes: Uint8Array;
  try {
    bytes = path === '-' ? pipes.readInput() : readFileSync(path);
  } catch (cause) {
    throw new VpnError('KEY_FILE_UNUSABLE', `cannot read the passphrase from ${path}`, { cause });
  }
  const end = bytes.findIndex((byte) => byte === 0x0a || byte === 0x0d);
  const passphrase = Uint8Array.from(end < 0 ? bytes : bytes.subarray(0, end));
  wipe(bytes);
  if (passphrase.length === 0) {
    throw new VpnError('USAGE', 'the passphrase is empty', { hint: 'Put it on the first line.' });
  }
  return passphrase;
}

/** As wg does, when a secret goes to a file that everybody may open. */
function warnWorldAccessible(output: Output, pipes: Pipes): void {
  const mode = pipes.outputMode();
  const regular = (mode & 0o170000) === 0o100000;
  if (!regular || (mode & 0o007) === 0) return;
  output.warn('writing to a world accessible file; set the umask to 077 and try again');
}

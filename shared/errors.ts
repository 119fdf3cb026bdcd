/**
 * Every error an operator can meet, in one catalogue: code, exit code, what to do about it.
 * docs/ERRORS.md has one row for each code; a test compares both. Errors of remote peers are not
 * here: they are refusals (closed unions) where they happen.
 */

/** Exit codes of every program (docs/ERRORS.md). */
export const ExitCode = {
  ok: 0,
  other: 1,
  usage: 2,
  notRunning: 3,
  privilege: 4,
  config: 5,
  unreachable: 6,
  refused: 7,
  alreadyRunning: 8,
  partial: 9,
} as const;
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

interface CatalogueRow {
  readonly exit: ExitCode;
  /** What to do about it, one sentence; shown as the hint. */
  readonly hint: string;
}

export const ERRORS = {
  USAGE: { exit: ExitCode.usage, hint: 'Run the command with --help.' },
  NOT_RUNNING: { exit: ExitCode.notRunning, hint: 'Start it first, or check --run.' },
  NO_TUN_DEVICE: {
    exit: ExitCode.privilege,
    hint: 'Load the module with `modprobe tun`; in a container pass --device /dev/net/tun.',
  },
  NO_NET_ADMIN: {
    exit: ExitCode.privilege,
    hint: 'Run as root, or grant CAP_NET_ADMIN.',
  },
  // The device and its sockets.
  ADDON_MISSING: {
    exit: ExitCode.other,
    hint: 'Run `npm run build` in a checkout, or `npm rebuild culvert-vpn` where it is installed.',
  },
  DEVICE_TAKEN: {
    exit: ExitCode.other,
    hint: 'Choose another name with --dev; `ip link` lists those in use.',
  },
  DEVICE_NAME_INVALID: {
    exit: ExitCode.usage,
    hint: 'Use at most 15 characters, no slash and no space, and no device of another kind.',
  },
  DEVICE_FAILED: { exit: ExitCode.other, hint: '`dmesg` may say more.' },
  PORT_IN_USE: {
    exit: ExitCode.other,
    hint: 'Choose another port; `ss -ulnp` shows who has it.',
  },
  PORT_PRIVILEGED: {
    exit: ExitCode.privilege,
    hint: 'Choose a port from 1024 up, run as root, or grant CAP_NET_BIND_SERVICE.',
  },
  ADDRESS_NOT_LOCAL: {
    exit: ExitCode.config,
    hint: 'Choose an address of this host; `ip address` lists them.',
  },
  AEAD_UNAVAILABLE: {
    exit: ExitCode.config,
    hint: 'Let it choose by itself, or install libipsec-mb-dev and build again.',
  },
  // Running and stopping
  ALREADY_RUNNING: {
    exit: ExitCode.alreadyRunning,
    hint: 'Stop the other one first, or give this one its own --state and --run.',
  },
  LOCK_FAILED: {
    exit: ExitCode.other,
    hint: 'Check that flock (util-linux) is installed.',
  },
  SOCKET_FAILED: {
    exit: ExitCode.other,
    hint: 'Check the run directory and its permissions, or choose another one with --run.',
  },
  CLEANUP_INCOMPLETE: {
    exit: ExitCode.other,
    hint: 'Run it again as root; the journal in the run directory keeps what is left to undo.',
  },
  NOT_ANSWERING: {
    exit: ExitCode.other,
    hint: 'It hangs or is stopped: `kill -CONT PID` lets it go on, `kill -9 PID` ends it; then run cleanup.',
  },
  REQUEST_FAILED: { exit: ExitCode.other, hint: 'Look at the log of the running program.' },

  // Invites
  INVITE_NOT_RECOGNISED: {
    exit: ExitCode.usage,
    hint: 'Paste the whole line that `vpn-server invite` printed; it begins with culvert1_.',
  },
  INVITE_DAMAGED: {
    exit: ExitCode.usage,
    hint: 'Copy the whole line again; not a character may be missing.',
  },
  INVITE_UNSUPPORTED: {
    exit: ExitCode.usage,
    hint: 'Update Culvert on this host, or ask for an invite from the same version.',
  },
  INVITE_EXPIRED: {
    exit: ExitCode.refused,
    hint: 'Ask for a new invite: `vpn-server invite NAME`.',
  },
  // Files that hold keys.
  KEY_MALFORMED: {
    exit: ExitCode.config,
    hint: 'A key is 44 base64 characters, as `vpn-keygen genkey` prints it.',
  },
  KEY_FILE_READABLE_BY_OTHERS: {
    exit: ExitCode.config,
    hint: 'Run `chmod 600` on the file; when others may have read it, make a new key.',
  },
  KEY_FILE_UNUSABLE: { exit: ExitCode.config, hint: 'Check the path and its permissions.' },
  KEY_FILE_EXISTS: {
    exit: ExitCode.config,
    hint: 'Choose another name, or move the old key away first.',
  },
  PASSPHRASE_WRONG: {
    exit: ExitCode.config,
    hint: 'Give the passphrase the key file was made with through --passphrase-file.',
  },
  // Profiles and the state of a client.
  PROFILE_INVALID: {
    exit: ExitCode.config,
    hint: 'Correct the line named; `man wg-quick` lists the keys.',
  },
  PROFILE_UNKNOWN: {
    exit: ExitCode.config,
    hint: 'Ask the operator of the server for an invite and pass it with --invite.',
  },
  SERVICE_UNKNOWN: {
    exit: ExitCode.other,
    hint: '`systemctl list-unit-files "vpn-*"` lists those that are installed.',
  },
  NETWORK_CLASH: {
    exit: ExitCode.config,
    hint: 'Start the server with another --network.',
  },
  STATE_UNUSABLE: {
    exit: ExitCode.config,
    hint: 'Check the state directory, its permissions and its disk, or name another with --state.',
  },
  // The way to a server.
  SERVER_UNREACHABLE: {
    exit: ExitCode.unreachable,
    hint: 'Check the address, that the server runs, and that UDP passes the firewalls between.',
  },
  NAME_NOT_RESOLVED: {
    exit: ExitCode.unreachable,
    hint: 'Check the spelling of the name and the resolver of this host.',
  },
  LEASE_UNACCEPTABLE: {
    exit: ExitCode.refused,
    hint: 'Ask the operator of the server for another address, from a range for private use.',
  },
  REFUSED: { exit: ExitCode.refused, hint: 'Ask the operator of the server for a new invite.' },
  DEVICE_LOST: {
    exit: ExitCode.other,
    hint: 'Start it again; something on this host removed its device.',
  },
  // The server's configuration.
  CONFIG_INVALID: {
    exit: ExitCode.config,
    hint: 'Correct the value named; docs/CONFIG.md lists every key.',
  },
  CONFIG_UNREADABLE: { exit: ExitCode.config, hint: 'Check the path and its permissions.' },
  // The server's store.
  STORE_CORRUPT: {
    exit: ExitCode.other,
    hint: 'Restore the state directory from a backup; nothing was changed.',
  },
  STORE_TOO_NEW: { exit: ExitCode.other, hint: 'Update Culvert on this host.' },
  STORE_FAILED: {
    exit: ExitCode.other,
    hint: 'Check free space and permissions of the state directory.',
  },
  BACKUP_EXISTS: { exit: ExitCode.other, hint: 'Name another file, or replace it with --force.' },
  BACKUP_FAILED: { exit: ExitCode.other, hint: 'Check free space and permissions there.' },
  BACKUP_UNUSABLE: {
    exit: ExitCode.config,
    hint: 'Name a file that `vpn-server backup` made, or one from `backups` in the state directory.',
  },
  STATE_IN_USE: {
    exit: ExitCode.config,
    hint: 'Add --replace when it is to be replaced; it is kept in `backups`.',
  },
  RESTORE_UNFINISHED: {
    exit: ExitCode.other,
    hint: 'Run the same `vpn-server restore` again: it does the rest.',
  },
  IDENTITY_MISMATCH: {
    exit: ExitCode.config,
    hint: 'Put back the identity.key that belongs to this state directory.',
  },
  // Peers and addresses.
  PEER_UNKNOWN: { exit: ExitCode.other, hint: '`vpn-server peers` lists the names.' },
  NAME_INVALID: {
    exit: ExitCode.usage,
    hint: 'Use 1 to 63 letters, digits, dots, dashes or underscores; begin with a letter or digit.',
  },
  NAME_TAKEN: { exit: ExitCode.other, hint: 'Choose another name, or revoke that peer first.' },
  KEY_TAKEN: { exit: ExitCode.other, hint: 'Make a new key with `vpn-keygen new`.' },
  ADDRESS_TAKEN: { exit: ExitCode.other, hint: '`vpn-server peers` lists the addresses.' },
  ADDRESS_UNUSABLE: {
    exit: ExitCode.usage,
    hint: "Choose a host address of the tunnel network, not the server's.",
  },
  NETWORK_UNUSABLE: {
    exit: ExitCode.usage,
    hint: 'Name networks that belong to nobody else, such as 10.20.0.0/16; `vpn-server peers` lists those in use.',
  },
  SETTING_FIXED: {
    exit: ExitCode.config,
    hint: 'Change it in the settings file, then run `vpn-server reload`.',
  },
  IMPORT_UNREADABLE: {
    exit: ExitCode.config,
    hint: "Name a wg0.conf, OpenVPN's ipp.txt, or its client-config-dir.",
  },
  IMPORT_REFUSED: {
    exit: ExitCode.config,
    hint: 'Change what is named there or here; `--plan` tries without changing anything.',
  },
  POOL_EXHAUSTED: {
    exit: ExitCode.other,
    hint: 'Revoke peers that are gone, or start the server with a larger --network.',
  },
  TOO_MANY_PEERS: { exit: ExitCode.other, hint: 'Raise maxClients, or revoke peers.' },
  ENDPOINT_UNKNOWN: {
    exit: ExitCode.usage,
    hint: 'Name the address that clients reach: --endpoint HOST:PORT.',
  },
  QR_TOO_LONG: {
    exit: ExitCode.other,
    hint: 'Take the text to the device as a file; fewer routes make a shorter profile.',
  },
  // Programs of the host.
  COMMAND_FAILED: { exit: ExitCode.other, hint: 'Run the command by hand to see more.' },
  COMMAND_MISSING: { exit: ExitCode.other, hint: 'Install the package that has it.' },
  HOST_REFUSED: {
    exit: ExitCode.other,
    hint: 'Check that /proc/sys and the file named can be written; containers often forbid it.',
  },
  INTERNAL: { exit: ExitCode.other, hint: 'This is a defect in Culvert; please report it.' },
} as const satisfies Record<string, CatalogueRow>;

export type ErrorCode = keyof typeof ERRORS;

/** An error whose fault lies with the operator, the host or the programmer. */
export class VpnError extends Error {
  readonly code: ErrorCode;
  readonly hint: string;
  readonly exitCode: ExitCode;

  /** `message` says what happened, with names and values but never a secret. */
  constructor(code: ErrorCode, message: string, options: { cause?: unknown; hint?: string } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'VpnError';
    this.code = code;
    this.hint = options.hint ?? ERRORS[code].hint;
    this.exitCode = ERRORS[code].exit;
  }
}

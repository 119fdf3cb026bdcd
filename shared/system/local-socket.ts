/**
 * JSON-RPC 2.0 over a unix socket that only its owner can open: one request or answer a line.
 * Both ends: the running program serves, its other commands call. What the methods mean is the
 * programs' business. Lines are bounded, so a stranger's input cannot fill the memory.
 */
import { existsSync, unlinkSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { type PeerProcess, peerProcess } from '../../native/index.ts';
import { ERRORS, type ErrorCode, VpnError } from '../errors.ts';
import { makeDirectory } from './make-directory.ts';

/** Longest request line, bytes; an import of 10,000 peers needs about 3 MiB. */
const MAX_REQUEST = 16 << 20;
/** Longest answer line, bytes; 10,000 peers in full need about 4 MiB. */
const MAX_ANSWER = 64 << 20;
/** sun_path of Linux, without the final zero. */
const MAX_PATH = 107;
/** Notifications that may wait for a slow reader, bytes. */
const MAX_UNREAD = 1 << 20;
const CALL_TIMEOUT_MS = 10_000;
/** A caller that does not read its answer is cut off after this. */
const CLOSE_PATIENCE_MS = 500;
/** JSON-RPC 2.0 section 5.1. */
const PARSE_ERROR = -32_700;
const INVALID_REQUEST = -32_600;
const METHOD_NOT_FOUND = -32_601;
const SERVER_ERROR = -32_000;

/** The way back to who called a method, beside its result. */
export interface LocalCaller {
  /**
   * Sends a notification. False, and nothing is sent, when the caller does not read fast enough:
   * at most MAX_UNREAD bytes wait for it.
   */
  notify(method: string, params: unknown): boolean;
  /** Calls `listener` once when the connection has ended. */
  onEnd(listener: () => void): void;
}

/** Takes the method's parameters; its result must be representable in JSON. */
export type LocalMethod = (params: unknown, caller: LocalCaller) => unknown | Promise<unknown>;

export interface LocalSocket {
  readonly path: string;
  /** Ends all connections and removes the socket; idempotent. */
  close(): Promise<void>;
}

/**
 * Serves `methods` on `path` (mode 0600; a missing directory is made with mode 0700). A socket
 * left behind by a killed program is replaced. Throws VpnError: ALREADY_RUNNING when a program
 * answers there, SOCKET_FAILED.
 */
export async function serveLocalSocket(
  path: string,
  methods: Readonly<Record<string, LocalMethod>>,
): Promise<LocalSocket> {
  requireShortPath(path);
  try {
    makeDirectory(dirname(path), 0o700);
  } catch (cause) {
    throw new VpnError('SOCKET_FAILED', `cannot make the directory ${dirname(path)}`, { cause });
  }
  if (existsSync(path)) {
    if (await isServed(path)) {
      throw new VpnError('ALREADY_RUNNING', `another program is running on ${path}`);
    }
    unlinkSync(path);
  }
  const connections = new Set<Socket>();
  const server = createServer((connection) => {
    if (!isOwner(connection)) {
      connection.destroy();
      return;
    }
    connections.add(connection);
    connection.on('close', () => connections.delete(connection));
    serveConnection(connection, methods);
  });
  await listen(server, path);
  let closed: Promise<void> | null = null;
  const close = (): Promise<void> => {
    closed ??= new Promise((resolve) => {
      // The server unlinks its socket when it closes. Answers already written still go out.
      const timer = setTimeout(() => {
        for (const connection of connections) connection.destroy();
      }, CLOSE_PATIENCE_MS);
      server.close(() => {
        clearTimeout(timer);
        resolve();
      });
      for (const connection of connections) connection.destroySoon();
    });
    return closed;
  };
  return { path, close };
}

/**
 * The caller is root or our own user, whatever became of the modes of socket and directory: as
 * the kernel knows it from connect().
 */
function isOwner(connection: Socket): boolean {
  const user = peerOf(connection)?.user;
  return user !== undefined && (user === 0 || user === process.geteuid?.());
}

function peerOf(connection: Socket): PeerProcess | null {
  // Node has no public way to the descriptor of a connection.
  const { _handle: handle } = connection as Socket & { _handle?: { fd?: number } | null };
  return handle?.fd === undefined ? null : peerProcess(handle.fd);
}

/**
 * Calls one method of the program that serves `path`. Throws VpnError: NOT_RUNNING when nobody
 * listens, NOT_ANSWERING (see silentProcess()), REQUEST_FAILED, or the error that the method threw
 * there.
 */
export async function callLocalSocket(
  path: string,
  method: string,
  params: unknown = {},
  options: { readonly timeoutMs?: number } = {},
): Promise<unknown> {
  requireShortPath(path);
  const timeoutMs = options.timeoutMs ?? CALL_TIMEOUT_MS;
  return new Promise((resolve, reject) => {
    const connection = createConnection(path);
    let done = false;
    const finish = (error: VpnError | null, result?: unknown): void => {
      if (done) return;
      done = true;
      clearTimeout(timer);
      connection.destroy();
      if (error === null) resolve(result);
      else reject(error);
    };
    let peer: PeerProcess | null = null;
    const timer = setTimeout(() => finish(notAnswering(path, peer, timeoutMs)), timeoutMs);
    connection.on('connect', () => {
      peer = peerOf(connection);
      connection.write(`${JSON.stringify({ jsonrpc: '2.0', id: 1, method, params })}\n`);
    });
    readLines(connection, MAX_ANSWER, (line) => {
      const answer = readMessage(line, path);
      if (answer instanceof VpnError) finish(answer);
      else finish(errorOf(answer), answer.result);
    });
    connection.on('error', (cause) => finish(connectError(path, cause)));
    connection.on('close', () =>
      finish(new VpnError('REQUEST_FAILED', `the connection to ${path} ended early`)),
    );
  });
}

function notAnswering(path: string, peer: PeerProcess | null, timeoutMs: number): VpnError {
  const who = peer === null ? 'the program' : `process ${peer.process}`;
  const message = `${who} does not answer on ${path} within ${timeoutMs / 1000} s`;
  return new VpnError('NOT_ANSWERING', message, { cause: peer });
}

/** Id of the process that did not answer a call; null: it is not known, or another error. */
export function silentProcess(error: unknown): number | null {
  if (!(error instanceof VpnError) || error.code !== 'NOT_ANSWERING') return null;
  return (error.cause as PeerProcess | null)?.process ?? null;
}

/**
 * Calls `method` and stays for its notifications: `onNotification` gets the parameters of each.
 * Resolves with true when the other end is gone, with false after `signal`. Throws VpnError as
 * callLocalSocket().
 */
export async function followLocalSocket(
  path: string,
  method: string,
  params: unknown,
  options: { readonly onNotification: (params: unknown) => void; readonly signal: AbortSignal },
): Promise<boolean> {
  requireShortPath(path);
  const { onNotification, signal } = options;
  return new Promise((resolve, reject) => {
    const connection = createConnection(path);
    signal.addEventListener('abort', () => {
      connection.destroy();
      resolve(false);
    });
    const fail = (error: VpnError): void => {
      connection.destroy();
      reject(error);
    };
    connection.on('connect', () => {
      connection.write(`${JSON.stringify({ jsonrpc: '2.0', id: 1, method, params })}\n`);
    });
    readLines(connection, MAX_ANSWER, (line) => {
      const message = readMessage(line, path);
      const error = message instanceof VpnError ? message : errorOf(message);
      if (error !== null) fail(error);
      else if ('params' in message) onNotification(message.params);
    });
    connection.on('error', (cause) => fail(connectError(path, cause)));
    connection.on('close', () => resolve(true));
  });
}

/** The error of a connection to a path where nobody listens. */
function isNobody(error: Error): boolean {
  return 'code' in error && ['ENOENT', 'ECONNREFUSED', 'ENOTDIR'].includes(String(error.code));
}

function connectError(path: string, cause: Error): VpnError {
  const code = 'code' in cause ? cause.code : '';
  if (isNobody(cause)) {
    return new VpnError('NOT_RUNNING', `not running: nothing answers on ${path}`, { cause });
  }
  if (code === 'EACCES') {
    return new VpnError('SOCKET_FAILED', `${path} belongs to another user`, {
      cause,
      hint: 'Run this command as the user who runs the program, usually root.',
    });
  }
  return new VpnError('REQUEST_FAILED', `cannot talk on ${path}`, { cause });
}

/** What the other end sends: an answer, or a notification, which has `params`. */
interface RpcMessage {
  readonly params?: unknown;
  readonly result?: unknown;
  readonly error?: {
    readonly message?: unknown;
    readonly data?: { readonly code?: unknown; readonly hint?: unknown };
  } | null;
}

/** One line of the other end, or what is wrong with it; null is a line without end. */
function readMessage(line: string | null, path: string): RpcMessage | VpnError {
  const bad = (why: string, cause?: unknown): VpnError =>
    new VpnError('REQUEST_FAILED', `a bad answer on ${path}: ${why}`, { cause });
  if (line === null) return bad('it is too long');
  let message: unknown;
  try {
    message = JSON.parse(line);
  } catch (cause) {
    return bad('it is not JSON', cause);
  }
  if (typeof message !== 'object' || message === null) return bad('it is no message');
  return message;
}

/** The error that an answer tells of; null: it has none. */
function errorOf({ error }: RpcMessage): VpnError | null {
  if (error === undefined || error === null) return null;
  const { code, hint } = error.data ?? {};
  const known = typeof code === 'string' && Object.hasOwn(ERRORS, code);
  return new VpnError(known ? (code as ErrorCode) : 'REQUEST_FAILED', String(error.message), {
    ...(typeof hint === 'string' ? { hint } : {}),
  });
}

function serveConnection(connection: Socket, methods: Readonly<Record<string, LocalMethod>>): void {
  const caller: LocalCaller = {
    notify: (method, params) => {
      if (!connection.writable || connection.writableLength > MAX_UNREAD) return false;
      connection.write(`${JSON.stringify({ jsonrpc: '2.0', method, params })}\n`);
      return true;
    },
    onEnd: (listener) => connection.once('close', listener),
  };
  // A caller that goes away mid-answer is its own business.
  connection.on('error', () => connection.destroy());
  readLines(connection, MAX_REQUEST, (line) => {
    if (line === null) {
      connection.end(`${errorAnswer(null, INVALID_REQUEST, 'line too long')}\n`);
      return;
    }
    void answerLine(line, methods, caller).then((answer) => {
      if (connection.writable) connection.write(`${answer}\n`);
    });
  });
}

async function answerLine(
  line: string,
  methods: Readonly<Record<string, LocalMethod>>,
  caller: LocalCaller,
): Promise<string> {
  let request: { id?: unknown; method?: unknown; params?: unknown } | null;
  try {
    request = JSON.parse(line) as typeof request;
  } catch {
    return errorAnswer(null, PARSE_ERROR, 'not JSON');
  }
  if (typeof request !== 'object' || request === null || typeof request.method !== 'string') {
    return errorAnswer(null, INVALID_REQUEST, 'not a request');
  }
  const id = typeof request.id === 'number' || typeof request.id === 'string' ? request.id : null;
  if (!Object.hasOwn(methods, request.method)) {
    return errorAnswer(id, METHOD_NOT_FOUND, `unknown method ${request.method.slice(0, 64)}`);
  }
  try {
    const result = await methods[request.method]!(request.params ?? {}, caller);
    return JSON.stringify({ jsonrpc: '2.0', id, result: result ?? null });
  } catch (error) {
    if (error instanceof VpnError) {
      return errorAnswer(id, SERVER_ERROR, error.message, { code: error.code, hint: error.hint });
    }
    const message = error instanceof Error ? error.message : String(error);
    return errorAnswer(id, SERVER_ERROR, message, { code: 'INTERNAL' });
  }
}

function errorAnswer(
  id: number | string | null,
  code: number,
  message: string,
  data?: { readonly code: ErrorCode; readonly hint?: string },
): string {
  return JSON.stringify({ jsonrpc: '2.0', id, error: { code, message, data } });
}

/** Calls `onLine` for each line; null once when a line exceeds `limit`, then never again. */
function readLines(connection: Socket, limit: number, onLine: (line: string | null) => void): void {
  let parts: string[] = [];
  let size = 0;
  let broken = false;
  connection.setEncoding('utf8');
  connection.on('data', (data) => {
    if (broken) return;
    const pieces = data.toString().split('\n');
    const rest = pieces.pop()!;
    for (const piece of pieces) {
      const line = parts.join('') + piece;
      parts = [];
      size = 0;
      if (line !== '') onLine(line);
    }
    parts.push(rest);
    size += rest.length;
    if (size > limit) {
      broken = true;
      parts = [];
      onLine(null);
    }
  });
}

/** Whether a program accepts connections on `path`, also one that hangs, only begins, or is ending. */
export function isServed(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = createConnection(path);
    connection.on('connect', () => {
      connection.destroy();
      resolve(true);
    });
    // Anything else says that there may be one: somebody else's (EACCES), a crowd before it (EAGAIN).
    connection.on('error', (error) => resolve(!isNobody(error)));
  });
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) =>
      reject(new VpnError('SOCKET_FAILED', `cannot listen on ${path}: ${cause.code}`, { cause })),
    );
    server.once('listening', () => resolve());
    // listen() binds before it returns: no moment in which others could connect.
    const umask = process.umask(0o177);
    try {
      server.listen(path);
    } finally {
      process.umask(umask);
    }
  });
}

function requireShortPath(path: string): void {
  if (Buffer.byteLength(path) > MAX_PATH) {
    throw new VpnError(
      'SOCKET_FAILED',
      `the socket path ${path} is longer than ${MAX_PATH} bytes, the limit of Linux`,
    );
  }
}

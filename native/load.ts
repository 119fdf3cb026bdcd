/**
 * The only loader of the addon. What it offers is described where it is used: native/index.ts (data
 * plane, clock, process) and shared/noise/crypto.ts (primitives of the handshake).
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { VpnError } from '../shared/errors.ts';

let loaded: unknown;

/**
 * What the addon exports; it is loaded at the first call, so that a program which needs nothing of
 * it runs without. It lies in build/, seen from the sources or from dist/. Errors: ADDON_MISSING.
 */
export function loadAddon(): unknown {
  if (loaded !== undefined) return loaded;
  const places = ['../build/Release/culvert.node', '../../build/Release/culvert.node'];
  const files = places.map((place) => fileURLToPath(new URL(place, import.meta.url)));
  const file = files.find((f) => existsSync(f));
  if (file === undefined) {
    throw new VpnError('ADDON_MISSING', 'The native part of Culvert has not been built.');
  }
  try {
    loaded = createRequire(import.meta.url)(file);
  } catch (cause) {
    throw new VpnError('ADDON_MISSING', `The native part of Culvert cannot be loaded: ${file}`, {
      cause,
    });
  }
  return loaded;
}

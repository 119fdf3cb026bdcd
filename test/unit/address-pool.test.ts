import { describe, expect, it } from 'vitest';
import { AddressPool } from '../../server/address-pool.ts';
import {
  contains,
  formatIpv4,
  formatNetwork,
  type Ipv4,
  lastAddress,
  parseIpv4,
  parseNetwork,
} from '../../server/ipv4.ts';

const ip = (text: string) => parseIpv4(text) as Ipv4;
const net = (text: string) => parseNetwork(text)!;
const next = (pool: AddressPool) => {
  const address = pool.allocate();
  return address === null ? null : formatIpv4(address);
};

describe('IPv4 text', () => {
  it('reads and writes addresses of the whole range', () => {
    for (const text of ['0.0.0.0', '1.2.3.4', '192.168.1.1', '255.255.255.255']) {
      expect(formatIpv4(ip(text))).toBe(text);
    }
  });

  it('refuses anything else', () => {
    for (const text of ['', '1.2.3', '1.2.3.4.5', '256.1.1.1', '01.2.3.4', '1.2.3.-4', 'a.b.c.d']) {
      expect(parseIpv4(text)).toBeNull();
    }
    for (const text of ['10.0.0.0', '10.0.0.0/33', '10.0.0/8', '10.0.0.0/08', '::/0']) {
      expect(parseNetwork(text)).toBeNull();
    }
  });

  it('masks host bits and knows the bounds of a network', () => {
    const network = net('203.0.113.77/26');
    expect(formatNetwork(network)).toBe('203.0.113.64/26');
    expect(formatIpv4(lastAddress(network))).toBe('203.0.113.127');
    expect(contains(network, ip('203.0.113.127'))).toBe(true);
    expect(contains(network, ip('203.0.113.128'))).toBe(false);
    expect(contains(net('0.0.0.0/0'), ip('255.255.255.255'))).toBe(true);
  });
});

describe('AddressPool', () => {
  const network = net('192.168.1.0/24');
  const serverAddress = ip('192.168.1.1');

  it('gives .2 and upward', () => {
    const pool = new AddressPool({ network, serverAddress });
    expect([next(pool), next(pool)]).toEqual(['192.168.1.2', '192.168.1.3']);
  });

  it('leaves out the server wherever it is', () => {
    const pool = new AddressPool({ network, serverAddress: ip('192.168.1.2') });
    expect([next(pool), next(pool)]).toEqual(['192.168.1.1', '192.168.1.3']);
  });

  it('gives 253 addresses of a /24 and then none', () => {
    const pool = new AddressPool({ network, serverAddress });
    const given = Array.from({ length: 253 }, () => next(pool));
    expect(new Set(given).size).toBe(253);
    expect(given.at(-1)).toBe('192.168.1.254');
    expect(next(pool)).toBeNull();
  });

  it('gives one address of a /30', () => {
    const pool = new AddressPool({ network: net('10.99.0.0/30'), serverAddress: ip('10.99.0.1') });
    expect([next(pool), next(pool)]).toEqual(['10.99.0.2', null]);
  });

  it('keeps reservations out of the way and reuses what was released', () => {
    const pool = new AddressPool({ network, serverAddress });
    expect(pool.reserve(ip('192.168.1.2'))).toBeNull();
    expect(next(pool)).toBe('192.168.1.3');
    pool.release(ip('192.168.1.2'));
    expect(next(pool)).toBe('192.168.1.2');
  });

  it('refuses reservations that cannot be', () => {
    const pool = new AddressPool({ network, serverAddress });
    pool.reserve(ip('192.168.1.9'));
    expect(pool.reserve(ip('192.168.1.9'))).toBe('taken');
    expect(pool.reserve(ip('192.168.2.9'))).toBe('outside');
    expect(pool.reserve(ip('192.168.1.0'))).toBe('notAHost');
    expect(pool.reserve(ip('192.168.1.255'))).toBe('notAHost');
    expect(pool.reserve(serverAddress)).toBe('server');
  });

  it('allocates between start and end, reserves outside of them too', () => {
    const start = ip('192.168.1.100');
    const pool = new AddressPool({ network, serverAddress, start, end: start });
    expect([next(pool), next(pool)]).toEqual(['192.168.1.100', null]);
    expect(pool.reserve(ip('192.168.1.5'))).toBeNull();
  });
});

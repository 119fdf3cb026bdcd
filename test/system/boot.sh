#!/bin/sh
# A machine of its own for a test: systemd as process 1 on a copy of this system that is written to
# memory. Run it in a network namespace and a mount namespace (`ip netns exec` gives both):
#
#   sh boot.sh FOLDER GROUP PROGRAM   ends, with all its processes, when this process does
#   sh boot.sh FOLDER GROUP           afterwards: removes what the kernel keeps of it
#
# FOLDER is a directory, GROUP the name of a new control group, PROGRAM the unpacked package.
# Nothing of the real system can be written from the machine, and nothing that is not the network's
# can be set from there: it has its own processes, users' files, /run, /tmp, /dev and control
# groups, kernel settings beyond net/ are read-only, and it cannot set the clock or load modules.
set -eu

if [ "${4:-}" != inside ]; then
  mount --make-rprivate /
  mount -t tmpfs -o mode=0755,size=2g tmpfs "$1"
  mkdir "$1/cgroup" "$1/root" "$1/layers"
  mount -t cgroup2 cgroup2 "$1/cgroup"
  if [ $# = 2 ]; then exec find "$1/cgroup/$2" -depth -type d -exec rmdir {} +; fi
  # Of killed test runs, whose groups are called cvt-PID-N-HOST.
  for group in "$1"/cgroup/cvt-*; do
    pid=${group##*/cvt-}
    if [ -d "$group" ] && [ ! -d "/proc/${pid%%-*}" ]; then
      find "$group" -depth -type d -exec rmdir {} + || true
    fi
  done
  mkdir "$1/cgroup/$2"
  echo 0 > "$1/cgroup/$2/cgroup.procs"
  umount "$1/cgroup"
  exec unshare --cgroup --pid --uts --ipc --mount --fork --kill-child sh "$0" "$1" "$2" "$3" inside
fi

root=$1/root
mount --bind "$root" "$root"
cd "$root"
mkdir -p dev etc home media mnt old opt proc root run srv sys tmp usr \
  var/cache var/lib/dpkg var/log var/spool var/tmp
chmod 0700 root
chmod 1777 tmp var/tmp
ln -s /run var/run
ln -s /run/lock var/lock
for name in bin sbin lib lib32 lib64 libx32; do
  if [ -L "/$name" ]; then ln -s "usr/$name" "$name"; fi
done

# What packages install is read from the real system and written to memory.
for name in usr etc var/lib/dpkg; do
  layer=$1/layers/$(echo "$name" | tr / -)
  mkdir "$layer" "$layer.work"
  mount -t overlay -o "lowerdir=/$name,upperdir=$layer,workdir=$layer.work" overlay "$name"
done

# Of the services here, only what a bare system has.
rm -rf etc/systemd/system/* etc/netns etc/culvert etc/resolv.conf usr/sbin/policy-rc.d
: > etc/fstab
: > etc/machine-id
echo "$2" > etc/hostname
for name in dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount \
  sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
  proc-sys-fs-binfmt_misc.automount systemd-udevd.service getty.target; do
  ln -s /dev/null "etc/systemd/system/$name"
done

# The package, as `npm install -g` leaves it.
packages=usr/lib/node_modules/culvert-vpn
mkdir -p usr/lib/node_modules
cp -R "$3" "$packages"
rm "$packages/node_modules"
mkdir "$packages/node_modules"
mount --bind "$(readlink -f "$3/node_modules")" "$packages/node_modules"
mount -o remount,bind,ro "$packages/node_modules"
for name in server client; do
  chmod 0755 "$packages/dist/$name/cli.js"
  ln -sf "../lib/node_modules/culvert-vpn/dist/$name/cli.js" "usr/bin/vpn-$name"
done

# Without a file system of its own systemd would mount the real one.
mount -t tmpfs -o mode=0755 tmpfs dev
mkdir dev/pts dev/shm dev/net
mknod -m 0666 dev/net/tun c 10 200
for node in null:3 zero:5 full:7 random:8 urandom:9; do
  mknod -m 0666 "dev/${node%:*}" c 1 "${node#*:}"
done
mknod -m 0666 dev/tty c 5 0

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
if [ -e proc/sysrq-trigger ]; then mount --bind dev/null proc/sysrq-trigger; fi
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs run
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s null dev/console
pivot_root . old
umount -l old
rmdir old
# As systemd does where it is not in a container: what it mounts for a unit has to reach the unit.
mount --make-rshared /
kept=-mknod,-sys_time,-sys_module,-sys_rawio,-syslog,-audit_control,-mac_admin,-mac_override
exec env -i container=test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin \
  setpriv "--bounding-set=$kept" /lib/systemd/systemd --log-target=console --show-status=no

# The addon; with -Dculvert_selftest=1 also the native selftest, plain and under sanitizers; with
# -Dculvert_sanitize=1 also the addon under AddressSanitizer and UBSan. scripts/build-addon.mjs,
# scripts/native-selftest.mjs and scripts/sanitize.mjs build them.
{
  'variables': {
    'culvert_selftest%': 0,
    'culvert_sanitize%': 0,
    # 1 when libipsec-mb can be built in.
    'culvert_ipsec_mb%': '<!(node -p "require(\'fs\').existsSync(\'/usr/include/intel-ipsec-mb.h\') ? 1 : 0")',
    'culvert_addon_sources': ['native/addon.cc', 'native/addon_primitives.cc'],
    'culvert_addon_defines': [
      'NAPI_VERSION=8',
      'NAPI_DISABLE_CPP_EXCEPTIONS',
      # A worker thread that is terminated inside a call cannot throw; that is no reason to abort.
      'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
    ],
    # As system headers: their warnings are not ours.
    'culvert_addon_cflags': [
      '-isystem <(node_root_dir)/include/node',
      '-isystem <!(node -p "require(\'path\').resolve(require(\'node-addon-api\').include_dir)")',
    ],
    'culvert_sanitizer_cflags': [
      '-g',
      '-fsanitize=address,undefined',
      '-fno-sanitize-recover=all',
      '-fno-omit-frame-pointer',
    ],
    # Data plane and primitives: everything but the addon's binding and programs of their own.
    'culvert_sources': [
      '<!@(node -p "require(\'fs\').readdirSync(\'native\').filter((f) => /[.]cc$/.test(f) && !/^(addon.*|selftest.*|bench.*|fuzz.*)[.]cc$/.test(f)).map((f) => \'native/\' + f).join(\' \')")',
    ],
  },
  'target_defaults': {
    'cflags_cc!': ['-std=gnu++17', '-std=gnu++20', '-fexceptions', '-frtti'],
    'cflags_cc': [
      '-std=c++20',
      '-O3',
      '-fno-exceptions',
      '-fno-rtti',
      '-fvisibility=hidden',
      '-Wall',
      '-Wextra',
      '-Werror',
    ],
    'conditions': [
      [
        'culvert_ipsec_mb==1',
        {
          'defines': ['CULVERT_IPSEC_MB=1'],
          'libraries': ['-lIPSec_MB'],
        },
      ],
    ],
  },
  'targets': [
    {
      'target_name': 'culvert',
      'defines': ['<@(culvert_addon_defines)'],
      'cflags_cc': ['<@(culvert_addon_cflags)'],
      'sources': ['<@(culvert_addon_sources)', '<@(culvert_sources)'],
    },
  ],
  'conditions': [
    [
      'culvert_sanitize==1',
      {
        'targets': [
          {
            'target_name': 'culvert_sanitized',
            'defines': ['<@(culvert_addon_defines)'],
            'cflags_cc': [
              '<@(culvert_addon_cflags)',
              '<@(culvert_sanitizer_cflags)',
              # As for the selftest, and for the same reason.
              '-Wno-array-bounds',
              '-Wno-stringop-overflow',
              '-Wno-stringop-overread',
            ],
            'sources': ['<@(culvert_addon_sources)', '<@(culvert_sources)'],
            'libraries': ['-fsanitize=address,undefined'],
          },
        ],
      },
    ],
    [
      'culvert_selftest==1',
      {
        'variables': {
          'selftest_sources': [
            '<@(culvert_sources)',
            '<!@(node -p "require(\'fs\').readdirSync(\'native\').filter((f) => /^selftest.*[.]cc$/.test(f)).map((f) => \'native/\' + f).join(\' \')")',
          ],
          # GCC 12 sees vector::insert read and write past the end where it does not; the addon is
          # built from the same sources with these warnings on.
          'selftest_cflags': [
            '-Wno-array-bounds',
            '-Wno-stringop-overflow',
            '-Wno-stringop-overread',
          ],
          # OpenSSL of the system, not the headers of the one inside node.
          'selftest_libraries': ['-lcrypto', '-pthread'],
        },
        'targets': [
          {
            'target_name': 'native_selftest',
            'type': 'executable',
            'sources': ['<@(selftest_sources)'],
            'cflags_cc': ['<@(selftest_cflags)'],
            'libraries': ['<@(selftest_libraries)'],
            'include_dirs/': [['exclude', 'include/node']],
          },
          {
            'target_name': 'native_selftest_sanitized',
            'type': 'executable',
            'sources': ['<@(selftest_sources)'],
            'libraries': ['<@(selftest_libraries)', '-fsanitize=address,undefined'],
            'include_dirs/': [['exclude', 'include/node']],
            'cflags_cc': ['<@(selftest_cflags)', '<@(culvert_sanitizer_cflags)'],
          },
        ],
      },
    ],
  ],
}

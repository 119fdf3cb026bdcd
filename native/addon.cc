// addon.cc - the verbs of shared/dataplane.ts for JavaScript, and the events on their way back.
// Translates and decides nothing: native/index.ts makes errors of failures and checks arguments;
// class Device does the work. The primitives of the handshake are addon_primitives.cc.
//
// A failure is returned, not thrown: an object {errno, step, value}. Invalid arguments of a type
// that TypeScript rules out are not looked for here.
#include <optional>
#include <utility>

#include "addon.h"
#include "device.h"
#include "memory.h"
#include "process.h"

namespace culvert {
namespace {

// ---- values from JavaScript -----------------------------------------------------------------

std::string text(const Napi::Value& value) {
  return value.IsString() ? value.As<Napi::String>().Utf8Value() : std::string();
}

uint32_t word(const Napi::Value& value) {
  return value.IsNumber() ? value.As<Napi::Number>().Uint32Value() : 0;
}

bool flag(const Napi::Value& value) {
  return value.IsBoolean() && value.As<Napi::Boolean>().Value();
}

struct Misfit {
  Failure failure;
  std::string value;  // what was given
};
using Outcome = std::optional<Misfit>;

Outcome refuse(const char* step, std::string value) {
  return Misfit{{EINVAL, step}, std::move(value)};
}

Outcome refuse_length(const char* step, const Bytes& given) {
  return refuse(step, std::to_string(given.size()) + " bytes");
}

Outcome read_key(const Napi::Value& from, uint8_t out[kKeyBytes]) {
  const Bytes key = bytes(from);
  if (key.size() != kKeyBytes) return refuse_length("read key", key);
  std::memcpy(out, key.data(), kKeyBytes);
  return {};
}

Outcome read_endpoint(const Napi::Value& from, Endpoint* out) {
  const auto object = from.As<Napi::Object>();
  const std::string address = text(object.Get("address"));
  const uint32_t port = word(object.Get("port"));
  Endpoint endpoint;
  if (port == 0 || port > UINT16_MAX ||
      !parse_endpoint(address.c_str(), static_cast<uint16_t>(port), &endpoint)) {
    return refuse("read endpoint", address + " port " + std::to_string(port));
  }
  const Napi::Value source = object.Get("source");
  if (source.IsString() && !parse_source(text(source).c_str(), &endpoint)) {
    return refuse("read source address", text(source));
  }
  endpoint.source_interface = word(object.Get("sourceInterface"));
  *out = endpoint;
  return {};
}

Listen read_listen(const Napi::Value& from) {
  const auto object = from.As<Napi::Object>();
  return {.port = static_cast<uint16_t>(word(object.Get("port"))),
          .address = text(object.Get("address"))};
}

// A list of literals; `step` is what failed when `parse` refuses one.
template <typename Item>
Outcome read_literals(const Napi::Value& from, const char* step, bool (*parse)(const char*, Item*),
                      std::vector<Item>* out) {
  const auto array = from.As<Napi::Array>();
  out->reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); i++) {
    const std::string literal = text(array.Get(i));
    if (!parse(literal.c_str(), &out->emplace_back())) return refuse(step, literal);
  }
  return {};
}

Outcome read_addresses(const Napi::Value& from, std::vector<IpAddress>* out) {
  return read_literals(from, "read address", parse_address, out);
}

ClientToClient read_client_to_client(const Napi::Value& from) {
  const std::string mode = text(from);
  if (mode == "direct") return ClientToClient::kDirect;
  return mode == "kernel" ? ClientToClient::kKernel : ClientToClient::kOff;
}

AeadChoice read_aead(const Napi::Value& from) {
  const std::string choice = text(from);
  if (choice == "ipsec-mb") return AeadChoice::kIpsecMb;
  return choice == "openssl" ? AeadChoice::kOpenssl : AeadChoice::kAuto;
}

Offloads read_offloads(const Napi::Value& from) {
  const auto object = from.As<Napi::Object>();
  return {.tun_tcp = flag(object.Get("tunTcp")),
          .tun_udp = flag(object.Get("tunUdp")),
          .udp_gso = flag(object.Get("udpGso")),
          .udp_gro = flag(object.Get("udpGro"))};
}

// ---- values for JavaScript ------------------------------------------------------------------

// An object of the given properties; a value is anything Napi::Value::From takes.
template <typename... Values>
Napi::Object make_object(Napi::Env env, const std::pair<const char*, Values>&... properties) {
  auto object = Napi::Object::New(env);
  (object.Set(properties.first, properties.second), ...);
  return object;
}

Napi::Value from_failure(Napi::Env env, const Failure& failure, const std::string& value = "") {
  return make_object(env, std::pair("errno", failure.error), std::pair("step", failure.step),
                     std::pair("value", value));
}

Napi::Value from_misfit(Napi::Env env, const Outcome& misfit) {
  return from_failure(env, misfit->failure, misfit->value);
}

// undefined or failure; `value`: what it was about.
Napi::Value from_result(Napi::Env env, const Result<Nothing>& result,
                        const std::string& value = "") {
  return result.ok() ? env.Undefined() : from_failure(env, result.failure(), value);
}

const char* aead_name(AeadKind kind) {
  return kind == AeadKind::kIpsecMb ? "ipsec-mb" : "openssl";
}

Napi::Value from_opened(Napi::Env env, const Opened& opened) {
  const Offloads& on = opened.offloads;
  const Napi::Object offloads =
      make_object(env, std::pair("tunTcp", on.tun_tcp), std::pair("tunUdp", on.tun_udp),
                  std::pair("udpGso", on.udp_gso), std::pair("udpGro", on.udp_gro));
  return make_object(env, std::pair("device", opened.device),
                     std::pair("port", uint32_t{opened.port}),
                     std::pair("aead", aead_name(opened.aead)),
                     std::pair("workers", opened.workers), std::pair("offloads", offloads));
}

Napi::Object from_endpoint(Napi::Env env, const Endpoint& endpoint) {
  auto object = make_object(env, std::pair("address", format_address(endpoint)),
                            std::pair("port", uint32_t{endpoint.port()}));
  if (const auto source = format_source(endpoint)) object.Set("source", *source);
  if (endpoint.source_interface != 0) object.Set("sourceInterface", endpoint.source_interface);
  return object;
}

// A copy of the bytes. Empty when the environment is ending: then nothing can be allocated.
Napi::Uint8Array copy_of(Napi::Env env, const uint8_t* from, size_t n) {
  auto array = Napi::Uint8Array::New(env, n);
  if (!array.IsEmpty()) std::memcpy(array.Data(), from, n);
  return array;
}

Napi::Object from_handshake(Napi::Env env, const HandshakeEvent& handshake) {
  return make_object(env, std::pair("type", "handshake"),
                     std::pair("message", copy_of(env, handshake.message, handshake.length)),
                     std::pair("from", from_endpoint(env, handshake.from)));
}

// In the order of enum Offload.
constexpr const char* kOffloadNames[] = {"tunTcp", "tunUdp", "udpGso", "udpGro"};

Napi::Object from_small(Napi::Env env, const SmallEvent& small) {
  switch (small.kind) {
    case SmallEvent::kNeedHandshake:
      return make_object(env, std::pair("type", "needHandshake"), std::pair("peer", small.peer));
    case SmallEvent::kConfirmed:
      return make_object(env, std::pair("type", "confirmed"), std::pair("peer", small.peer),
                         std::pair("localIndex", small.local_index));
    case SmallEvent::kFallback:
      return make_object(env, std::pair("type", "fallback"),
                         std::pair("offload", kOffloadNames[static_cast<size_t>(small.offload)]),
                         std::pair("errno", small.error));
    case SmallEvent::kFault:
      break;
  }
  return make_object(env, std::pair("type", "fault"),
                     std::pair("where", small.where == Where::kTun ? "tun" : "udp"),
                     std::pair("errno", small.error));
}

// ---- the object behind DataPlane ------------------------------------------------------------

// Without an open device only open() and close() may be called; native/index.ts sees to that.
class NativeDevice : public Napi::ObjectWrap<NativeDevice> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "NativeDevice",
                       {
                           InstanceMethod<&NativeDevice::open>("open"),
                           InstanceMethod<&NativeDevice::configure>("configure"),
                           InstanceMethod<&NativeDevice::set_peer>("setPeer"),
                           InstanceMethod<&NativeDevice::remove_peer>("removePeer"),
                           InstanceMethod<&NativeDevice::install_keypair>("installKeypair"),
                           InstanceMethod<&NativeDevice::drop_keypairs>("dropKeypairs"),
                           InstanceMethod<&NativeDevice::send_handshake>("sendHandshake"),
                           InstanceMethod<&NativeDevice::send_inner>("sendInner"),
                           InstanceMethod<&NativeDevice::read_stats>("readStats"),
                           InstanceMethod<&NativeDevice::take_events>("takeEvents"),
                           InstanceMethod<&NativeDevice::has_events>("hasEvents"),
                           InstanceMethod<&NativeDevice::close>("close"),
                       });
  }

  explicit NativeDevice(const Napi::CallbackInfo& info) : ObjectWrap(info) {}
  ~NativeDevice() override { stop(); }

 private:
  // open(options, onDoorbell): Interface or failure.
  Napi::Value open(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const auto object = info[0].As<Napi::Object>();
    OpenOptions options;
    options.device = text(object.Get("device"));
    options.mtu = word(object.Get("mtu"));
    options.fwmark = word(object.Get("fwmark"));
    options.client_to_client = read_client_to_client(object.Get("clientToClient"));
    options.workers = word(object.Get("workers"));
    options.aead = read_aead(object.Get("aead"));
    options.offloads = read_offloads(object.Get("offloads"));
    options.listen = read_listen(object.Get("listen"));
    Outcome misfit = read_key(object.Get("publicKey"), options.public_key);
    if (!misfit) misfit = read_addresses(object.Get("addresses"), &options.addresses);
    if (misfit) return from_misfit(env, misfit);

    // One place in the queue: the doorbell says that there is something, not how much.
    doorbell_ =
        Napi::ThreadSafeFunction::New(env, info[1].As<Napi::Function>(), "culvert doorbell", 1, 1);
    Opened opened;
    Result<std::unique_ptr<Device>> device = Device::open(
        options, &opened, [doorbell = doorbell_]() { (void)doorbell.NonBlockingCall(); });
    if (!device.ok()) {
      doorbell_.Release();
      return from_failure(env, device.failure());
    }
    device_ = std::move(device.value());
    // Kept alive while open. When the environment ends first, its hooks run last in, first out:
    // the workers are joined before the doorbell they ring goes away.
    Ref();
    napi_add_env_cleanup_hook(env, at_exit, this);
    return from_opened(env, opened);
  }

  // configure(change): Interface or failure.
  Napi::Value configure(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const auto object = info[0].As<Napi::Object>();
    Reconfiguration change;
    Outcome misfit;
    if (const Napi::Value value = object.Get("listen"); value.IsObject()) {
      change.listen = read_listen(value);
    }
    if (const Napi::Value value = object.Get("publicKey"); value.IsTypedArray()) {
      misfit = read_key(value, change.public_key.emplace(kKeyBytes).data());
    }
    if (const Napi::Value value = object.Get("addresses"); !misfit && value.IsArray()) {
      misfit = read_addresses(value, &change.addresses.emplace());
    }
    if (misfit) return from_misfit(env, misfit);
    if (const Napi::Value value = object.Get("fwmark"); value.IsNumber()) {
      change.fwmark = word(value);
    }
    if (const Napi::Value value = object.Get("mtu"); value.IsNumber()) change.mtu = word(value);
    if (const Napi::Value value = object.Get("clientToClient"); value.IsString()) {
      change.client_to_client = read_client_to_client(value);
    }
    Opened opened;
    const Result<Nothing> done = device_->configure(change, &opened);
    return done.ok() ? from_opened(env, opened) : from_failure(env, done.failure());
  }

  // setPeer(peer, config): undefined or failure; then nothing has changed.
  Napi::Value set_peer(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const auto object = info[1].As<Napi::Object>();
    PeerConfig config;
    Outcome misfit = read_key(object.Get("publicKey"), config.public_key);
    const Napi::Value to = object.Get("endpoint");
    if (to.IsNull()) config.endpoint_change = EndpointChange::kForget;
    if (!misfit && to.IsObject()) {
      config.endpoint_change = EndpointChange::kSet;
      misfit = read_endpoint(to, &config.endpoint);
    }
    const Napi::Value mtu = object.Get("pathMtu");
    if (mtu.IsNull()) config.path_mtu = Peer::kNoPathMtu;
    if (mtu.IsNumber()) config.path_mtu = word(mtu);
    if (!misfit) {
      misfit = read_literals(object.Get("allowedIps"), "read allowed IPs", parse_prefix,
                             &config.allowed_ips);
    }
    if (misfit) return from_misfit(env, misfit);
    device_->set_peer(word(info[0]), config);
    return env.Undefined();
  }

  Napi::Value remove_peer(const Napi::CallbackInfo& info) {
    device_->remove_peer(word(info[0]));
    return info.Env().Undefined();
  }

  // installKeypair(peer, keypair): undefined or failure. Keys are copied; the caller wipes its own.
  Napi::Value install_keypair(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const auto object = info[1].As<Napi::Object>();
    const Bytes send_key = bytes(object.Get("sendKey"));
    const Bytes receive_key = bytes(object.Get("receiveKey"));
    if (send_key.size() != kKeyBytes || receive_key.size() != kKeyBytes) {
      return from_failure(env, {EINVAL, "read key"}, "not 32 bytes");
    }
    NewKeypair keypair;
    keypair.role = text(object.Get("role")) == "initiator" ? Role::kInitiator : Role::kResponder;
    keypair.local_index = word(object.Get("localIndex"));
    keypair.remote_index = word(object.Get("remoteIndex"));
    keypair.send_key = send_key.data();
    keypair.receive_key = receive_key.data();
    if (const Outcome misfit = read_endpoint(object.Get("endpoint"), &keypair.endpoint)) {
      return from_misfit(env, misfit);
    }
    if (!device_->install_keypair(word(info[0]), keypair)) {
      return from_failure(env, {ENOENT, "install keypair"}, text(info[0].ToString()));
    }
    return env.Undefined();
  }

  Napi::Value drop_keypairs(const Napi::CallbackInfo& info) {
    device_->drop_keypairs(word(info[0]));
    return info.Env().Undefined();
  }

  // sendHandshake(peer, to or null, message): whether it was sent, or failure.
  Napi::Value send_handshake(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const Bytes message = bytes(info[2]);
    if (message.size() != kInitiationBytes && message.size() != kResponseBytes) {
      return from_misfit(env, refuse_length("read handshake message", message));
    }
    Endpoint to;
    const bool given = info[1].IsObject();
    const Outcome misfit = given ? read_endpoint(info[1], &to) : Outcome();
    if (misfit) return from_misfit(env, misfit);
    return Napi::Boolean::New(env, device_->send_handshake(word(info[0]), given ? &to : nullptr,
                                                           message.data(), message.size()));
  }

  // sendInner(peer, bytes): whether it was sent, or failure.
  Napi::Value send_inner(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const Bytes inner = bytes(info[1]);
    if (inner.size() > kMaxInnerBytes) {
      return from_misfit(env, refuse_length("read inner packet", inner));
    }
    return Napi::Boolean::New(env, device_->send_inner(word(info[0]), inner.data(), inner.size()));
  }

  // readStats(rows, columns): how many rows there are.
  Napi::Value read_stats(const Napi::CallbackInfo& info) {
    auto rows = info[0].As<Napi::BigUint64Array>();
    const size_t columns = word(info[1]);
    const size_t there = device_->read_stats(rows.Data(), rows.ElementLength() / columns, columns);
    return Napi::Number::New(info.Env(), static_cast<double>(there));
  }

  // takeEvents(): the next events, as many as one turn may have.
  Napi::Value take_events(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    auto events = Napi::Array::New(env);
    uint32_t n = 0;
    device_->events().take_turn(
        [&](const SmallEvent& small) { events.Set(n++, from_small(env, small)); },
        [&](uint32_t peer, size_t size) -> uint8_t* {
          auto frame = Napi::Uint8Array::New(env, size);
          if (frame.IsEmpty()) return nullptr;  // the environment is ending
          events.Set(n++, make_object(env, std::pair("type", "control"), std::pair("peer", peer),
                                      std::pair("bytes", frame)));
          return frame.Data();
        },
        [&](const HandshakeEvent& handshake) { events.Set(n++, from_handshake(env, handshake)); });
    return events;
  }

  // hasEvents(): whether takeEvents() would bring any. While it would, the doorbell is silent.
  Napi::Value has_events(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), !device_->events().empty());
  }

  Napi::Value close(const Napi::CallbackInfo& info) {
    if (device_) {
      stop();
      doorbell_.Release();
      Unref();
    }
    return info.Env().Undefined();
  }

  // Joins the workers and closes everything. Safe without an open device.
  void stop() {
    if (!device_) return;
    napi_remove_env_cleanup_hook(Env(), at_exit, this);
    device_.reset();
  }

  // The environment ends: the doorbell's own hook comes after this one and lets go of it.
  static void at_exit(void* self) { static_cast<NativeDevice*>(self)->device_.reset(); }

  // Destroyed from the end: the device first, whose workers ring the doorbell.
  Napi::ThreadSafeFunction doorbell_;
  std::unique_ptr<Device> device_;
};

// ---- clock and process ----------------------------------------------------------------------

// now(): milliseconds of CLOCK_BOOTTIME.
Napi::Value now(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(now_ms()));
}

// wall(): CLOCK_REALTIME.
Napi::Value wall(const Napi::CallbackInfo& info) {
  timespec t{};
  ::clock_gettime(CLOCK_REALTIME, &t);
  return make_object(info.Env(), std::pair("seconds", static_cast<double>(t.tv_sec)),
                     std::pair("nanoseconds", static_cast<double>(t.tv_nsec)));
}

// sendUnixDatagram(path, text): undefined or failure.
Napi::Value send_unix_datagram(const Napi::CallbackInfo& info) {
  const std::string path = text(info[0]);
  return from_result(info.Env(), culvert::send_unix_datagram(path, text(info[1])), path);
}

// peerProcess(fd): {user, process} or failure.
Napi::Value peer_process(const Napi::CallbackInfo& info) {
  const Result<PeerProcess> peer = culvert::peer_process(info[0].ToNumber().Int32Value());
  if (!peer.ok()) return from_failure(info.Env(), peer.failure());
  const auto [user, process] = peer.value();
  return make_object(info.Env(), std::pair("user", static_cast<double>(user)),
                     std::pair("process", static_cast<double>(process)));
}

// forbidCoreDumps(): undefined or failure.
Napi::Value forbid_core_dumps(const Napi::CallbackInfo& info) {
  return from_result(info.Env(), culvert::forbid_core_dumps());
}

// endNow(exit code)
void end_now(const Napi::CallbackInfo& info) {
  culvert::end_now(info[0].As<Napi::Number>().Int32Value());
}

// giveBackMemory()
void give_back_memory(const Napi::CallbackInfo&) {
  culvert::give_back_memory();
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("NativeDevice", NativeDevice::define(env));
  define_primitives(env, exports);
  exports.Set("now", Napi::Function::New<now>(env));
  exports.Set("wall", Napi::Function::New<wall>(env));
  exports.Set("sendUnixDatagram", Napi::Function::New<send_unix_datagram>(env));
  exports.Set("peerProcess", Napi::Function::New<peer_process>(env));
  exports.Set("forbidCoreDumps", Napi::Function::New<forbid_core_dumps>(env));
  exports.Set("endNow", Napi::Function::New<end_now>(env));
  exports.Set("giveBackMemory", Napi::Function::New<give_back_memory>(env));
  return exports;
}

}  // namespace
}  // namespace culvert

static Napi::Object init_addon(Napi::Env env, Napi::Object exports) {
  return culvert::init(env, exports);
}
NODE_API_MODULE(culvert, init_addon)

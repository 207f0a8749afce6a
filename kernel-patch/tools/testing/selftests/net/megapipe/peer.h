/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A TCP peer made by hand, behind a TUN device: each of its packets is sent
 * when the test says so, on the CPU on which the test runs then.
 *
 *	kernel under test                      the test
 *	192.0.2.1, 2001:db8::1  --- tun0 ---   192.0.2.2, 2001:db8::2
 *
 * The network namespace must be the test's own: mp_new_netns().
 */
#ifndef MEGAPIPE_PEER_H
#define MEGAPIPE_PEER_H

#include <linux/if_tun.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>

#include "megapipe_test.h"

#define PEER_FIN	0x01
#define PEER_SYN	0x02
#define PEER_RST	0x04
#define PEER_PSH	0x08
#define PEER_ACK	0x10

/**
 * struct mp_peer - one connection of the peer's
 * @tun: the device
 * @family: AF_INET or AF_INET6
 * @sport: its port
 * @dport: the server's port
 * @seq: next sequence number to send
 * @ack: next sequence number expected
 */
struct mp_peer {
	int		tun;
	int		family;
	uint16_t	sport;
	uint16_t	dport;
	uint32_t	seq;
	uint32_t	ack;
};

/* The device, non-blocking */
static inline int mp_tun_open(void)
{
	struct ifreq ifr = { .ifr_name = "tun0", .ifr_flags = IFF_TUN | IFF_NO_PI };
	int tun = mp_must(open("/dev/net/tun",
			       O_RDWR | O_NONBLOCK | O_CLOEXEC));

	mp_must(ioctl(tun, TUNSETIFF, &ifr));
	mp_shell("ip addr add 192.0.2.1/24 dev tun0");
	mp_shell("ip addr add 2001:db8::1/64 dev tun0 nodad");
	mp_shell("ip link set tun0 up");
	return tun;
}

/* Where the kernel under test is reached over the device */
static inline struct mp_addr mp_tun_addr(int family)
{
	struct mp_addr addr = mp_loopback(family);

	if (family == AF_INET)
		mp_must(inet_pton(AF_INET, "192.0.2.1", &addr.in.sin_addr));
	else
		mp_must(inet_pton(AF_INET6, "2001:db8::1", &addr.in6.sin6_addr));
	return addr;
}

/* A socket that listens there; @addr gets its port. */
static inline int mp_tun_listen(int family, int backlog, struct mp_addr *addr)
{
	int fd = mp_must(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));

	*addr = mp_tun_addr(family);
	mp_must(bind(fd, &addr->sa, addr->len));
	mp_must(listen(fd, backlog));
	mp_getsockname(fd, addr);
	return fd;
}

static inline struct mp_peer mp_peer(int tun, const struct mp_addr *server)
{
	static uint16_t port = 20000;

	return (struct mp_peer){
		.tun = tun,
		.family = server->sa.sa_family,
		.sport = port++,
		.dport = ntohs(server->in.sin_port),	/* in6's is there, too */
		.seq = 1000000,
	};
}

static inline uint32_t mp_peer_sum(uint32_t sum, const void *data, size_t len)
{
	const uint8_t *byte = data;
	size_t i;

	for (i = 0; i < len; i++)
		sum += i & 1 ? byte[i] : byte[i] << 8;
	return sum;
}

static inline uint16_t mp_peer_fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons(~sum);
}

/* Send one packet; it is processed before this returns. */
static inline void mp_peer_send(struct mp_peer *peer, int flags,
				const char *data, size_t len)
{
	struct {
		uint16_t sport, dport;
		uint32_t seq, ack;
		uint8_t offset, flags;
		uint16_t window, check, urgent;
	} tcp = {
		.sport = htons(peer->sport),
		.dport = htons(peer->dport),
		.seq = htonl(peer->seq),
		.ack = flags & PEER_ACK ? htonl(peer->ack) : 0,
		.offset = 5 << 4,
		.flags = flags,
		.window = htons(65535),
	};
	uint8_t packet[1500] = {};
	size_t total = sizeof(tcp) + len, head;
	uint32_t sum = IPPROTO_TCP + total;

	if (peer->family == AF_INET) {
		struct iphdr ip = {
			.version = 4,
			.ihl = 5,
			.tot_len = htons(sizeof(ip) + total),
			.ttl = 64,
			.protocol = IPPROTO_TCP,
		};

		inet_pton(AF_INET, "192.0.2.2", &ip.saddr);
		inet_pton(AF_INET, "192.0.2.1", &ip.daddr);
		sum = mp_peer_sum(sum, &ip.saddr, 8);
		ip.check = mp_peer_fold(mp_peer_sum(0, &ip, sizeof(ip)));
		head = sizeof(ip);
		memcpy(packet, &ip, head);
	} else {
		struct ip6_hdr ip = {
			.ip6_plen = htons(total),
			.ip6_nxt = IPPROTO_TCP,
			.ip6_hlim = 64,
		};

		ip.ip6_vfc = 6 << 4;
		inet_pton(AF_INET6, "2001:db8::2", &ip.ip6_src);
		inet_pton(AF_INET6, "2001:db8::1", &ip.ip6_dst);
		sum = mp_peer_sum(sum, &ip.ip6_src, 32);
		head = sizeof(ip);
		memcpy(packet, &ip, head);
	}
	sum = mp_peer_sum(sum, &tcp, sizeof(tcp));
	tcp.check = mp_peer_fold(mp_peer_sum(sum, data, len));
	memcpy(packet + head, &tcp, sizeof(tcp));
	if (len)
		memcpy(packet + head + sizeof(tcp), data, len);
	mp_must(write(peer->tun, packet, head + total));
}

/*
 * The flags of the next packet for this connection, or 0 when none came in
 * @timeout_ms.  A SYN|ACK tells what to acknowledge.
 */
static inline int mp_peer_receive(struct mp_peer *peer, int timeout_ms)
{
	long long deadline = mp_now_ns() + timeout_ms * 1000000LL;
	struct pollfd pfd = { .fd = peer->tun, .events = POLLIN };
	uint8_t packet[2048];

	for (;;) {
		ssize_t len = read(peer->tun, packet, sizeof(packet));
		const uint8_t *tcp = packet;
		uint32_t seq;

		if (len < 0) {
			long long left = deadline - mp_now_ns();

			if (left <= 0)
				return 0;
			poll(&pfd, 1, left / 1000000 + 1);
			continue;
		}
		if (packet[0] >> 4 == 4 && packet[9] == IPPROTO_TCP)
			tcp += (packet[0] & 15) * 4;
		else if (packet[0] >> 4 == 6 && packet[6] == IPPROTO_TCP)
			tcp += sizeof(struct ip6_hdr);
		else
			continue;
		if (tcp[2] << 8 != (peer->sport & 0xff00) ||
		    tcp[3] != (peer->sport & 0xff))
			continue;
		memcpy(&seq, tcp + 4, sizeof(seq));
		if ((tcp[13] & (PEER_SYN | PEER_ACK)) == (PEER_SYN | PEER_ACK))
			peer->ack = ntohl(seq) + 1;
		return tcp[13];
	}
}

/* The first half of a handshake, on @cpu */
static inline void mp_peer_syn(struct mp_peer *peer, int cpu)
{
	mp_pin(cpu);
	mp_peer_send(peer, PEER_SYN, NULL, 0);
	if (!(mp_peer_receive(peer, 20000) & PEER_SYN))
		mp_die("no SYN|ACK");
	peer->seq++;
}

/* The second, on @cpu */
static inline void mp_peer_ack(struct mp_peer *peer, int cpu)
{
	mp_pin(cpu);
	mp_peer_send(peer, PEER_ACK, NULL, 0);
}

/* Data, which acknowledges as well */
static inline void mp_peer_data(struct mp_peer *peer, int cpu, const char *data)
{
	mp_pin(cpu);
	mp_peer_send(peer, PEER_ACK | PEER_PSH, data, strlen(data));
	peer->seq += strlen(data);
}

#endif /* MEGAPIPE_PEER_H */

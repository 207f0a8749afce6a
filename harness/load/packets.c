// SPDX-License-Identifier: MIT
/*
 * megabench-packets: what a capture of one TCP port shows, as counts in a file.
 *
 * Every segment that passes an interface is of one kind, by its flags and whether it
 * carries data; of those with data it is also counted how many have PSH or FIN.
 * Sixteen words of the file, in host order, grow while the program runs; the load
 * generator copies it at the edges of its window, as it copies other counters.
 *
 * The socket is emptied a few hundred times a second, not for each segment: to be
 * woken that often would take the processor from those who are measured.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NR_MESSAGES	256
#define HEADERS_BYTES	128		/* link, network and TCP headers, options too */
#define QUEUE_BYTES	(64 << 20)
#define PAUSE_NS	3000000

/* In this order in the file: first the server's, then those to it. */
enum kind {
	WITH_SYN,
	WITH_RST,
	WITH_DATA,
	BARE_FIN,
	BARE_ACK,
	DATA_PSH,
	DATA_FIN,
	BYTES,
	NR_KINDS,
};

enum direction {
	FROM_SERVER,
	TO_SERVER,
	NR_DIRECTIONS,
};

struct counts {
	uint64_t of[NR_DIRECTIONS][NR_KINDS];
};

static volatile sig_atomic_t over;

static void end(int signal)
{
	(void)signal;
	over = 1;
}

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "megabench-packets: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void add(struct counts *counts, enum direction direction, enum kind kind, uint64_t n)
{
	/* One writer; whoever copies the file meanwhile sees whole words. */
	__atomic_store_n(&counts->of[direction][kind], counts->of[direction][kind] + n,
			 __ATOMIC_RELAXED);
}

static void count_segment(struct counts *counts, const struct tcphdr *tcp, size_t bytes,
			  uint16_t port)
{
	const size_t header = tcp->doff * 4;
	const size_t data = bytes > header ? bytes - header : 0;
	enum direction direction;

	if (ntohs(tcp->source) == port)
		direction = FROM_SERVER;
	else if (ntohs(tcp->dest) == port)
		direction = TO_SERVER;
	else
		return;
	if (tcp->syn) {
		add(counts, direction, WITH_SYN, 1);
	} else if (tcp->rst) {
		add(counts, direction, WITH_RST, 1);
	} else if (data) {
		add(counts, direction, WITH_DATA, 1);
		add(counts, direction, DATA_PSH, tcp->psh);
		add(counts, direction, DATA_FIN, tcp->fin);
		add(counts, direction, BYTES, data);
	} else {
		add(counts, direction, tcp->fin ? BARE_FIN : BARE_ACK, 1);
	}
}

/* @len: of the frame that was kept, not of the whole. */
static void count_frame(struct counts *counts, const unsigned char *frame, size_t len,
			uint16_t port)
{
	const struct ethhdr *link = (const struct ethhdr *)frame;
	const unsigned char *network = frame + sizeof(*link);
	size_t header, bytes;

	if (len < sizeof(*link) + sizeof(struct iphdr))
		return;
	if (ntohs(link->h_proto) == ETH_P_IP) {
		const struct iphdr *ip = (const struct iphdr *)network;

		if (ip->protocol != IPPROTO_TCP)
			return;
		header = ip->ihl * 4;
		bytes = ntohs(ip->tot_len) - header;
	} else if (ntohs(link->h_proto) == ETH_P_IPV6 &&
		   len >= sizeof(*link) + sizeof(struct ip6_hdr)) {
		const struct ip6_hdr *ip = (const struct ip6_hdr *)network;

		if (ip->ip6_nxt != IPPROTO_TCP)
			return;
		header = sizeof(*ip);
		bytes = ntohs(ip->ip6_plen);
	} else {
		return;
	}
	if (len >= sizeof(*link) + header + sizeof(struct tcphdr))
		count_segment(counts, (const struct tcphdr *)(network + header), bytes, port);
}

static bool is_loopback(int fd, const char *interface)
{
	struct ifreq asked = { 0 };

	snprintf(asked.ifr_name, sizeof(asked.ifr_name), "%s", interface);
	return ioctl(fd, SIOCGIFFLAGS, &asked) == 0 && asked.ifr_flags & IFF_LOOPBACK;
}

static int open_capture(const char *interface)
{
	/* Keep the headers of everything. */
	struct sock_filter keep[] = { BPF_STMT(BPF_RET | BPF_K, HEADERS_BYTES) };
	const struct sock_fprog filter = { .len = 1, .filter = keep };
	struct sockaddr_ll address = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = if_nametoindex(interface),
	};
	const int bytes = QUEUE_BYTES, one = 1;
	int fd;

	if (!address.sll_ifindex)
		die(interface);
	/* Of no protocol until the filter is there. */
	fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) < 0)
		die("capture");
	/* An ordinary user of a namespace of his own must do with less. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	/* What it sends comes back to be received, and is counted then. */
	if (is_loopback(fd, interface) &&
	    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one)) < 0)
		die(interface);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		die(interface);
	return fd;
}

static struct counts *open_file(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	struct counts *counts;

	if (fd < 0 || ftruncate(fd, sizeof(*counts)) < 0)
		die(path);
	counts = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (counts == MAP_FAILED)
		die(path);
	close(fd);
	return counts;
}

static void drain(int fd, struct counts *counts, uint16_t port)
{
	static unsigned char frames[NR_MESSAGES][HEADERS_BYTES] __attribute__((aligned(4)));
	static struct iovec pieces[NR_MESSAGES];
	static struct mmsghdr messages[NR_MESSAGES];
	int n;

	do {
		for (int i = 0; i < NR_MESSAGES; i++) {
			pieces[i] = (struct iovec) { frames[i], HEADERS_BYTES };
			messages[i].msg_hdr = (struct msghdr) {
				.msg_iov = &pieces[i],
				.msg_iovlen = 1,
			};
		}
		n = recvmmsg(fd, messages, NR_MESSAGES, 0, NULL);
		for (int i = 0; i < n; i++)
			count_frame(counts, frames[i], messages[i].msg_len, port);
	} while (n == NR_MESSAGES);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		die("capture");
}

static unsigned int lost(int fd)
{
	struct tpacket_stats stats = { 0 };
	socklen_t len = sizeof(stats);

	if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &len) < 0)
		die("capture");
	return stats.tp_drops;
}

int main(int argc, char **argv)
{
	const struct timespec pause = { .tv_nsec = PAUSE_NS };
	const struct sigaction action = { .sa_handler = end };
	const int port = argc == 4 ? atoi(argv[2]) : 0;
	struct counts *counts;
	int fd;

	if (port < 1 || port > UINT16_MAX) {
		fputs("usage: megabench-packets INTERFACE PORT FILE\n", stderr);
		return 2;
	}
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	fd = open_capture(argv[1]);
	counts = open_file(argv[3]);
	puts("{\"event\":\"ready\"}");
	fflush(stdout);
	while (!over) {
		drain(fd, counts, port);
		nanosleep(&pause, NULL);
	}
	drain(fd, counts, port);
	printf("{\"event\":\"final\",\"lost\":%u}\n", lost(fd));
	return 0;
}

/*
 * Measures DPDK's rte_acl: rteacl RULES TRACE ALGORITHM PASSES
 *
 * RULES is in the ClassBench format, TRACE has a packet a line: source, destination,
 * ports, protocol and the index of its rule, all decimal. ALGORITHM is avx512x32,
 * avx512x16 or avx2. Prints "M lookups/s, seconds to build, wrong answers": the median
 * of PASSES passes in CPU time of the thread, in batches of 256.
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_acl.h>
#include <rte_eal.h>

enum { BATCH = 256, FIELDS = 5 };

/* One packet as rte_acl reads it, in network byte order. */
struct packet {
	uint8_t proto, pad[3];
	uint32_t src, dst;
	uint16_t sport, dport;
};

RTE_ACL_RULE_DEF(rule, FIELDS);

static struct rte_acl_field_def fields[FIELDS] = {
	{RTE_ACL_FIELD_TYPE_BITMASK, sizeof(uint8_t), 0, 0, offsetof(struct packet, proto)},
	{RTE_ACL_FIELD_TYPE_MASK, sizeof(uint32_t), 1, 1, offsetof(struct packet, src)},
	{RTE_ACL_FIELD_TYPE_MASK, sizeof(uint32_t), 2, 2, offsetof(struct packet, dst)},
	{RTE_ACL_FIELD_TYPE_RANGE, sizeof(uint16_t), 3, 3, offsetof(struct packet, sport)},
	{RTE_ACL_FIELD_TYPE_RANGE, sizeof(uint16_t), 4, 3, offsetof(struct packet, dport)},
};

static void die(const char *what)
{
	fprintf(stderr, "rteacl: %s\n", what);
	exit(1);
}

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static struct rte_acl_ctx *load(const char *file)
{
	struct rte_acl_param param = {.name = "rules", .socket_id = SOCKET_ID_ANY,
		.rule_size = RTE_ACL_RULE_SZ(FIELDS), .max_rule_num = 1 << 20};
	struct rte_acl_ctx *ctx = rte_acl_create(&param);
	FILE *f = fopen(file, "r");
	char line[256];
	uint32_t n = 0;

	if (ctx == NULL || f == NULL)
		die("cannot open the rules");
	while (fgets(line, sizeof line, f)) {
		unsigned s[5], d[5], sp[2], dp[2], proto, mask;
		struct rule r = {.data = {.category_mask = 1, .priority = RTE_ACL_MAX_PRIORITY - n, .userdata = n + 1}};
		if (sscanf(line, "@%u.%u.%u.%u/%u %u.%u.%u.%u/%u %u : %u %u : %u %x/%x", s, s + 1, s + 2, s + 3, s + 4,
			   d, d + 1, d + 2, d + 3, d + 4, sp, sp + 1, dp, dp + 1, &proto, &mask) != 16)
			die("a rule is malformed");
		r.field[0].value.u8 = proto & mask;
		r.field[0].mask_range.u8 = mask;
		r.field[1].value.u32 = s[0] << 24 | s[1] << 16 | s[2] << 8 | s[3];
		r.field[1].mask_range.u32 = s[4];
		r.field[2].value.u32 = d[0] << 24 | d[1] << 16 | d[2] << 8 | d[3];
		r.field[2].mask_range.u32 = d[4];
		r.field[3].value.u16 = sp[0];
		r.field[3].mask_range.u16 = sp[1];
		r.field[4].value.u16 = dp[0];
		r.field[4].mask_range.u16 = dp[1];
		if (rte_acl_add_rules(ctx, (struct rte_acl_rule *)&r, 1) != 0)
			die("a rule is refused");
		n++;
	}
	fclose(f);
	return ctx;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	char *eal[] = {argv[0], "--no-huge", "--no-pci", "--no-shconf", "--no-telemetry", "-m", "4096", "--force-max-simd-bitwidth=512", NULL};
	if (argc != 5)
		die("usage: rteacl RULES TRACE ALGORITHM PASSES");
	enum rte_acl_classify_alg algorithm = !strcmp(argv[3], "avx512x32") ? RTE_ACL_CLASSIFY_AVX512X32 :
		!strcmp(argv[3], "avx512x16") ? RTE_ACL_CLASSIFY_AVX512X16 : RTE_ACL_CLASSIFY_AVX2;
	if (rte_eal_init(8, eal) < 0)
		die("DPDK does not start");

	struct rte_acl_ctx *ctx = load(argv[1]);
	struct rte_acl_config config = {.num_categories = 1, .num_fields = FIELDS};
	memcpy(config.defs, fields, sizeof fields);
	double start = seconds();
	if (rte_acl_build(ctx, &config) != 0)
		die("cannot build");
	double build = seconds() - start;
	if (rte_acl_set_ctx_classify(ctx, algorithm) != 0)
		die("this machine does not run the algorithm");

	FILE *f = fopen(argv[2], "r");
	size_t n = 0, room = 1 << 20;
	struct packet *packets = calloc(room, sizeof *packets);
	const uint8_t **data = calloc(room, sizeof *data);
	int *expected = calloc(room, sizeof *expected);
	uint32_t src, dst;
	unsigned sport, dport, proto;
	if (f == NULL)
		die("cannot open the trace");
	while (n < room && fscanf(f, "%" SCNu32 " %" SCNu32 " %u %u %u %d", &src, &dst, &sport, &dport, &proto, &expected[n]) == 6) {
		packets[n] = (struct packet){.proto = proto, .src = htonl(src), .dst = htonl(dst), .sport = htons(sport), .dport = htons(dport)};
		data[n] = (uint8_t *)&packets[n];
		n++;
	}
	n -= n % BATCH;

	int passes = atoi(argv[4]), wrong = 0;
	double times[passes];
	uint32_t results[BATCH];
	for (int pass = -1; pass < passes; pass++) {
		start = seconds();
		for (size_t i = 0; i < n; i += BATCH) {
			rte_acl_classify(ctx, data + i, results, BATCH, 1);
			if (pass < 0)
				for (int j = 0; j < BATCH; j++)
					wrong += (int)results[j] - 1 != expected[i + j];
		}
		if (pass >= 0)
			times[pass] = seconds() - start;
	}
	qsort(times, passes, sizeof *times, by_value);
	printf("%.3f %.3f %d\n", n / times[passes / 2] * 1e-6, build, wrong);
	return 0;
}

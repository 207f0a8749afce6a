#!/usr/bin/env perl
# SPDX-License-Identifier: BSD-3-Clause
# How connections are served: -o io_engine, and the counters of it.

use strict;
use warnings;
use Test::More;
use FindBin qw($Bin);
use lib "$Bin/lib";
use MemcachedTest;

my $exe = get_memcached_exe();

# What it says when it does not start.
sub refused {
    my $args = shift;
    $args .= " -u root" if $< == 0;
    my $said = `timeout 20 $exe -p 0 $args 2>&1`;
    isnt($?, 0, "refused: $args");
    return $said;
}

# Settings and counters, after some requests, with eleven connections open.
sub serve {
    my $options = shift;
    my $server = new_memcached("-l 127.0.0.1 -t 2 $options");
    my @socks = map { $server->new_sock } 1 .. 10;
    my $n = 0;
    for my $sock (@socks) {
        $n++;
        print $sock "set key 0 0 2\r\n" . sprintf("%02d", $n) . "\r\n";
        is(scalar <$sock>, "STORED\r\n", "stored");
        mem_get_is($sock, "key", sprintf("%02d", $n));
    }
    my $sock = $server->sock;
    return mem_stats($sock, "settings"), mem_stats($sock, "io_engine");
}

my ($settings, $stats) = serve("-o io_engine=libevent");
is($settings->{io_engine}, "libevent", "settings: libevent");
is_deeply($stats, { io_engine => "libevent" }, "no counters");

like(refused("-o io_engine"), qr/io_engine must be/, "an engine has a name");
like(refused("-o io_engine=epoll"), qr/io_engine must be/, "and there are three");
like(refused("-o io_engine=megapipe,megapipe_batch=0"), qr/megapipe_batch must be/, "no batch");

($settings, $stats) = serve("");
is($stats->{io_engine}, $settings->{io_engine}, "auto: $settings->{io_engine}");

if ($settings->{io_engine} eq "libevent") {
    like(refused("-o io_engine=megapipe"), qr/^io_engine=megapipe: .*MegaPipe/m, "and why");
    done_testing();
    exit;
}

is($settings->{megapipe_lwsocket}, "yes", "lwsockets");
is($settings->{megapipe_partition}, "yes", "partitions");
cmp_ok($stats->{megapipe_accepts}, ">=", 11, "accepts");
is($stats->{megapipe_lwsockets}, 11, "all of them lwsockets");
cmp_ok($stats->{megapipe_dispatches}, "<", $stats->{megapipe_commands}, "more at a time");
cmp_ok($stats->{megapipe_events}, ">=", 51, "accepts, reads and writes completed");

($settings, $stats) = serve("-o io_engine=megapipe,no_megapipe_lwsocket,no_megapipe_partition,"
                            . "megapipe_batch=1");
is($settings->{io_engine}, "megapipe", "megapipe, because it is asked for");
is($settings->{megapipe_lwsocket}, "no", "no lwsockets");
is($settings->{megapipe_partition}, "no", "no partitions");
is($settings->{megapipe_batch}, 1, "one at a time");
cmp_ok($stats->{megapipe_accepts}, ">=", 11, "accepts");
is($stats->{megapipe_lwsockets}, 0, "none of them lwsockets");

like(refused("-o io_engine=megapipe -t 2 -N 2"), qr/^io_engine=megapipe: -N/m, "-N is libevent's");
done_testing();

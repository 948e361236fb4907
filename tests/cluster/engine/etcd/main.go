// An etcd for one machine and one day: one member that never waits for the disk.
package main

import (
	"flag"
	"log"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

func main() {
	directory := flag.String("data-dir", "", "where the data goes")
	client := flag.String("listen-client-url", "http://127.0.0.1:2379", "where clients are served")
	peer := flag.String("listen-peer-url", "http://127.0.0.1:2380", "where other members would be served")
	flag.Parse()

	config := embed.NewConfig()
	config.Dir = *directory
	config.UnsafeNoFsync = true
	config.LogLevel = "warn"
	config.QuotaBackendBytes = 4 << 30
	config.ListenClientUrls, config.AdvertiseClientUrls = one(*client), one(*client)
	config.ListenPeerUrls, config.AdvertisePeerUrls = one(*peer), one(*peer)
	config.InitialCluster = config.InitialClusterFromName(config.Name)

	server, err := embed.StartEtcd(config)
	if err != nil {
		log.Fatal(err)
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGINT, syscall.SIGTERM)
	select {
	case <-asked:
		server.Close()
	case err := <-server.Err():
		log.Fatal(err)
	}
}

func one(address string) []url.URL {
	parsed, err := url.Parse(address)
	if err != nil {
		log.Fatal(err)
	}
	return []url.URL{*parsed}
}

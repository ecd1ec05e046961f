// The port forwarding of a kubelet, and no more of it. `kubelet OWN SERVED` listens on the address OWN
// and connects port 11435 of every pod with the address SERVED.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

const (
	containerPort = 11435
	idleTimeout   = time.Hour
	streamTimeout = 30 * time.Second
)

type served string

func (address served) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	if port != containerPort {
		return fmt.Errorf("nobody listens on %d", port)
	}
	connection, err := net.Dial("tcp", string(address))
	if err != nil {
		return err
	}
	defer connection.Close()
	go func() {
		io.Copy(connection, stream)
		connection.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, connection)
	return err
}

func main() {
	own, address := os.Args[1], served(os.Args[2])
	certificate, key, err := cert.GenerateSelfSignedCertKey("127.0.0.1", nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/portForward/{namespace}/{pod}", func(w http.ResponseWriter, r *http.Request) {
		portforward.ServePortForward(w, r, address, r.PathValue("pod"), "", &portforward.V4Options{},
			idleTimeout, streamTimeout, portforward.SupportedProtocols)
	})
	// SPDY takes over a connection of HTTP/1.1.
	server := &http.Server{Addr: own, TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"},
	}}
	log.Fatal(server.ListenAndServeTLS("", ""))
}

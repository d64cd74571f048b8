package main

import "errors"

func asUID(uid string) error {
	if uid == "" {
		return nil
	}
	return errors.New("there are no uids here")
}

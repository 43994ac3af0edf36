/* A stand-in for libusb-1.0 with one device on its bus: the DFU boot loader of an OrangeCrab (USB DFU 1.1).
 *
 * Environment: DFU_RECORD is the file that gets what is downloaded; DFU_FAULT, if it is set, what goes wrong: "absent",
 * no device; "refused", an error after the first block; "unwritten", an error while the flash memory is written.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NO_DEVICE = -4, VENDOR = 0x1209, PRODUCT = 0x5af0, DFU_CLASS = 0xfe, DFU_SUBCLASS = 1 };
enum request { DNLOAD = 1, GETSTATUS = 3, CLRSTATUS = 4, GETSTATE = 5, ABORT = 6 };
enum state { IDLE = 2, DNLOAD_IDLE = 5, MANIFEST_SYNC = 6, MANIFEST = 7, ERROR = 10 };

/* as in libusb.h, which need not be installed */
struct device_descriptor {
	uint8_t length, type;
	uint16_t usb;
	uint8_t class, subclass, protocol, packet_size;
	uint16_t vendor, product, device;
	uint8_t manufacturer_name, product_name, serial_name, configurations;
};
struct interface_descriptor {
	uint8_t length, type, number, alternate, endpoints, class, subclass, protocol, name;
	const void *endpoint;
	const uint8_t *extra;
	int extra_length;
};
struct interface {
	const struct interface_descriptor *alternates;
	int count;
};
struct config_descriptor {
	uint8_t length, type;
	uint16_t total_length;
	uint8_t interfaces, value, name, attributes, power;
	const struct interface *interface;
	const uint8_t *extra;
	int extra_length;
};

/* blocks of 4096 bytes, download, tolerant of manifestation */
static const uint8_t functional[] = {9, 0x21, 0x0d, 0x10, 0x27, 0x00, 0x10, 0x01, 0x01};
static const struct interface_descriptor alternate = {
	9, 4, 0, 0, 0, DFU_CLASS, DFU_SUBCLASS, 2, 3, NULL, functional, sizeof functional};
static const struct interface interface = {&alternate, 1};
static struct config_descriptor config = {9, 2, 27, 1, 1, 0, 0x80, 50, &interface, NULL, 0};
static const char *names[] = {"", "GsD", "OrangeCrab r0.2 DFU Bootloader v3.1", "0x00080000 Bitstream"};

static enum state state = IDLE;
static int blocks;
static int device, handle;

static int faulty(const char *fault)
{
	const char *chosen = getenv("DFU_FAULT");
	return chosen && !strcmp(chosen, fault);
}

int libusb_init(void **context)
{
	*context = &device;
	return 0;
}

void *libusb_open_device_with_vid_pid(void *context, uint16_t vendor, uint16_t product)
{
	(void)context;
	return vendor == VENDOR && product == PRODUCT && !faulty("absent") ? &handle : NULL;
}

void *libusb_get_device(void *opened)
{
	(void)opened;
	return &device;
}

int libusb_get_device_descriptor(void *which, struct device_descriptor *descriptor)
{
	(void)which;
	*descriptor = (struct device_descriptor){18, 1, 0x0201, 239, 2, 1, 64, VENDOR, PRODUCT, 0x0101, 1, 2, 0, 1};
	return 0;
}

int libusb_get_config_descriptor(void *which, uint8_t index, struct config_descriptor **descriptor)
{
	(void)which, (void)index;
	*descriptor = &config;
	return 0;
}

int libusb_get_string_descriptor_ascii(void *opened, uint8_t index, char *text, int size)
{
	(void)opened;
	return snprintf(text, size, "%s", names[index]);
}

int libusb_claim_interface(void *opened, int number)
{
	(void)opened, (void)number;
	return 0;
}

int libusb_control_transfer(void *opened, uint8_t type, uint8_t request, uint16_t value, uint16_t index,
			    unsigned char *data, uint16_t length, unsigned timeout)
{
	(void)opened, (void)type, (void)value, (void)index, (void)timeout;
	switch (request) {
	case DNLOAD:
		if (length) {
			FILE *record = fopen(getenv("DFU_RECORD"), "ab");
			if (!record || fwrite(data, 1, length, record) != length || fclose(record))
				abort();
			blocks++;
			state = faulty("refused") && blocks > 1 ? ERROR : DNLOAD_IDLE;
		} else {
			state = MANIFEST_SYNC;
		}
		return length;
	case GETSTATUS: {
		if (state == MANIFEST)
			state = IDLE;
		else if (state == MANIFEST_SYNC)
			state = faulty("unwritten") ? ERROR : MANIFEST;
		const unsigned char status[6] = {state == ERROR ? 3 : 0, 1, 0, 0, state, 0};
		memcpy(data, status, sizeof status);
		return sizeof status;
	}
	case GETSTATE:
		*data = state;
		return 1;
	case CLRSTATUS:
	case ABORT:
		state = IDLE;
		return 0;
	}
	return NO_DEVICE;
}
